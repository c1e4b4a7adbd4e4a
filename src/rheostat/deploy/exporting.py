"""Export of a model for other runtimes: ONNX or torch.export, folded at a point or with a live dial.

The metadata of every file describe it (dials, point, classes, preprocessing, measured numbers). A file is
compared with the model before it is written under its name.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rheostat.deploy.onnx_session import Session, stage_file
from rheostat.deploy.runtimes import KEY, open_graph
from rheostat.models.artifact import About, check_finite, versions
from rheostat.models.folding import FoldedExits, foldable
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.choices import nearest
from rheostat.runtime.files import write_bytes
from rheostat.runtime.seeding import stream

TARGETS = {"onnx": ".onnx", "torch": ".pt2"}
RUNS_IN = {"onnx": ("fp32", "bf16"), "torch": ("fp32",)}
"""Target → the precisions in which its files run: OpenVINO runs an ONNX file in bf16 too."""
PARITY = 1e-4
"""The largest difference allowed between a logit of file and model, as a fraction of the largest logit."""
UNMEASURED: dict[str, Any] = {"name": None, "measured": {}, "temperature": 1.0}
"""What a description says of a file whose accuracies nobody measured."""


class NoFile(ValueError):
    """A point that has no file of the format asked for, because of what its pass does."""


class Live(nn.Module):
    """Images (B, C, H, W) and robustness (B,) → logits (B, K): the dial is an input."""

    def __init__(self, model: Tunable, fixed: Point) -> None:
        super().__init__()
        self.model, self.fixed = model, fixed

    def forward(self, images: Tensor, robustness: Tensor) -> Tensor:
        logits: Tensor = self.model(images, self.fixed.replace(robustness=robustness))
        return logits


def describe(
    model: Tunable,
    about: About,
    point: Point,
    name: str | None,
    artifact: str,
    *,
    precisions: Collection[str] = ("fp32",),
) -> dict[str, Any]:
    """The description that a file stores in its metadata.

    It states name and numbers of a named point only if they were measured in one of `precisions`, those that the file
    runs in.
    """
    measured = about.measured.get(name, {}) if name else {}
    holds = measured.get("precision", "fp32") in precisions
    return {
        "artifact": artifact,
        "composition": repr(model.method),
        "point": point.numbers(),
        **(
            {"name": name, "measured": measured, "temperature": measured.get("temperature", 1.0)}
            if holds
            else UNMEASURED
        ),
        "dials": {d.name: {"low": d.low, "high": d.high, "values": d.values} for d in model.dials.values()},
        "points": {k: p.numbers() for k, p in model.points.items()},
        "classes": list(about.classes),
        "preprocessing": {
            "image": list(model.net.image),
            "range": [0.0, 1.0],
            "layout": "NCHW",
            "normalised": "inside the file",
            **({} if about.preprocessing is None else asdict(about.preprocessing)),
        },
        "threat": about.threat,
        "versions": versions(),
    }


def check_installed() -> None:
    """Raise ValueError that names the extra if a package that writes or runs ONNX files is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ValueError(f"ONNX files need the package {package}: pip install 'rheostat[deploy]'") from None


def export(
    model: Tunable,
    about: About,
    out: Path,
    *,
    at: str | Point | None = None,
    to: str = "onnx",
    live: bool = False,
    artifact: str = "",
    images: Tensor | None = None,
) -> list[Path]:
    """Write the files of a point, and return their paths.

    By default the file holds one plain folded network. With `live`, `robustness` is an input, one value per
    row, and there is one file per width. A point with live exits gives one file per stage, which `Session`
    runs with real early exit. A file states the numbers of a named point only if they hold for it: a live dial has
    other points too, and a point that was chosen in int8 has another file (`rheostat export` writes it). Parity is
    checked on `images` (n, C, H, W), n ≥ 2 (default: noise). The model does not change: a copy on the CPU is exported.
    Raises ValueError if the point cannot be exported this way (`NoFile` if that is due to its pass), or if a file's
    outputs differ from the model's.
    """
    if to not in TARGETS:
        raise ValueError(f"no target {to!r}; {nearest(to, TARGETS)}")
    if to == "onnx":
        check_installed()
    check_finite(dict(model.named_parameters()), "the model")
    name = at if isinstance(at, str) else None
    point = model.at(at).point
    point.numbers()  # one position for all rows, or ValueError
    model = copy.deepcopy(model).to(torch.device("cpu")).to_layout(torch.contiguous_format).eval()
    x = torch.rand(3, *model.net.image, generator=stream("export")) if images is None else images.cpu()
    about_file = describe(model, about, point, name, artifact, precisions=RUNS_IN[to])
    if live:
        return _live(model, point, out, to, about_file, x)
    if model.method.live(point) and to != "onnx":
        raise ValueError("live exits can be exported only as ONNX stages; give --to onnx, or exit=0")
    folded = foldable(model, point)
    if folded is None:
        raise NoFile(
            f"{point.label()} is not one fixed network (it draws noise, mixes passes or cannot be traced), so it has "
            "no folded file; serve it with --backend torch, or export another point or the dial live"
        )
    with torch.no_grad():
        expected = model(x, point)
    if isinstance(folded, FoldedExits):
        return _stages(folded, out, about_file, x, expected)
    return [_write(folded, (x,), ("images",), out, to, about_file, [expected])]


def _live(model: Tunable, point: Point, out: Path, to: str, about: dict[str, Any], x: Tensor) -> list[Path]:
    if "robustness" not in model.dials or model.dials["robustness"].structural:
        raise ValueError("this model has no robustness dial that can be an input of the file")
    if model.method.live(point) or model.method.randomised(point):
        raise ValueError(f"{point} has live exits or draws noise; it cannot be one graph with a live dial")
    widths = model.dials["width"].values if "width" in model.dials else None
    levels = torch.linspace(0, 1, len(x))
    paths = []
    for width in widths or (None,):
        fixed = point if width is None else point.replace(width=width)
        place = out if width is None else out.with_name(f"{out.stem}-width-{width:g}{out.suffix}")
        with torch.no_grad():
            expected = model(x, fixed.replace(robustness=levels))
        entry = about | {
            **UNMEASURED,
            "live": ["robustness"],
            "point": {k: v for k, v in fixed.numbers().items() if k != "robustness"},
        }
        paths.append(_write(Live(model, fixed), (x, levels), ("images", "robustness"), place, to, entry, [expected]))
    return paths


def _stages(folded: FoldedExits, out: Path, about: dict[str, Any], x: Tensor, whole: Tensor) -> list[Path]:
    features = x
    entry = {"stages": len(folded.stages), "thresholds": folded.thresholds.tolist(), "measure": folded.measure}
    places = [stage_file(out, number) for number in range(len(folded.stages))]
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder) / place.name for place in places]
        for number, stage in enumerate(folded.stages):
            with torch.no_grad():
                expected = stage(features)
            own = about | {"stage": number} | entry
            _write(stage, (features,), ("features",), made[number], "onnx", own, list(expected))
            features = expected[0]
        _compare(torch.from_numpy(Session(made[0])(x.numpy())), whole, out)
        # The first stage comes last: it is the file that is opened, and it does not accept stages of another export.
        for file, place in reversed(list(zip(made, places, strict=True))):
            write_bytes(place, file.read_bytes())
    return places


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    out: Path,
    to: str,
    about: dict[str, Any],
    expected: list[Tensor],
) -> Path:
    batch = torch.export.Dim("batch", min=1, max=65535)
    shapes = tuple({0: batch} for _ in inputs)
    text = json.dumps(about)
    with tempfile.TemporaryDirectory() as folder, _quiet(), torch.no_grad():
        temporary = Path(folder) / f"x{out.suffix}"
        if to == "torch":
            with _expressed(about, "by torch.export"):
                program = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)
            torch.export.save(program, temporary, extra_files={f"{KEY}.json": text})
            again = torch.export.load(temporary).module()(*inputs)
            found = list(again) if isinstance(again, tuple) else [again]
        else:
            outputs = ["passed", "logits"] if len(expected) == 2 else ["logits"]
            with _expressed(about, "as ONNX", "; serve it with --backend torch, or export --to torch"):
                onnx = torch.onnx.export(
                    module.eval(),
                    inputs,
                    dynamo=True,
                    dynamic_shapes=shapes,
                    input_names=list(names),
                    output_names=outputs,
                    verbose=False,
                )
            assert onnx is not None
            onnx.model.metadata_props[KEY] = text
            onnx.save(temporary)
            ran = open_graph(temporary).run(
                {n: np.ascontiguousarray(v.numpy()) for n, v in zip(names, inputs, strict=True)}
            )
            found = [torch.from_numpy(v) for v in ran]
        for a, b in zip(found, expected, strict=True):
            _compare(a, b, out)
        write_bytes(out, temporary.read_bytes())
    return out


@contextlib.contextmanager
def _expressed(about: Mapping[str, Any], how: str, instead: str = "") -> Iterator[None]:
    """Turn an exporter's error into a `NoFile` that names the point and the cause."""
    try:
        yield
    except RuntimeError as error:  # the base of the errors of torch.onnx and torch.export
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = next(iter(str(cause).splitlines()), type(cause).__name__)
        what = "the live dial" if "live" in about else Point(**about["point"]).label()
        raise NoFile(f"{what} cannot be written {how}: {why}{instead}") from None


def _compare(found: Tensor, expected: Tensor, out: Path) -> None:
    gap = float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))
    if not gap <= PARITY:
        raise ValueError(f"{out.name} differs from the model by {gap:.2g} of the largest output")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and its notes on packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
