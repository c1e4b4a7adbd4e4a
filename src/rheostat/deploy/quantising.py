"""int8 by ONNX Runtime's static quantisation, with clean *and* robust accuracy measured again.

Quantisation hides gradients but does not make a model robust. Therefore the float model's adversarial images
are transferred, and Square, which needs no gradient, attacks the quantised file directly.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheostat.attacks import named
from rheostat.data import Dataset, to_pixels
from rheostat.deploy.exporting import UNMEASURED
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.deploy.runtimes import KEY, Array
from rheostat.evaluation.attacked import attack_chunk, chunks, victim_at
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import share
from rheostat.runtime.files import write_bytes
from rheostat.runtime.precision import full_precision

IN_PYTHON = (
    "int8 takes its ranges from that split; in Python, rheostat.deploy.quantising.quantise(file, out, images) takes "
    "yours"
)
"""How a model is quantised that does not record its images."""


def quantise(path: Path, out: Path, images: Tensor) -> Path:
    """Quantise a folded file to int8, with ranges from calibration images (n, C, H, W).

    Its metadata are those of the file, without the numbers of its point, which were not measured in int8. Raises
    ValueError for a file with stages or a live dial.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    source = Session(path)
    if "stages" in source.about or "live" in source.about:
        raise ValueError(f"{path}: only a file folded at one point can be quantised")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(images.split(64))

        def get_next(self) -> dict[str, Array] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "p.onnx", Path(folder) / "q.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(made),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return write_described(made, out, {**source.about, **UNMEASURED, "quantised": "int8"})


def write_described(file: Path, out: Path, about: Mapping[str, Any]) -> Path:
    """Write the graph of an ONNX file under another description."""
    from onnx import load as load_onnx

    found = load_onnx(str(file))
    del found.metadata_props[:]
    entry = found.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about)
    write_bytes(out, found.SerializeToString())
    return out


@dataclass(frozen=True)
class Judged:
    """Bits (n,) of a file and of the float model on the same images: which images each classifies correctly."""

    float_clean: Tensor
    float_robust: Tensor
    """Of the float model under its own PGD-20 images."""
    clean: Tensor
    transferred: Tensor
    """Of the file, on the clean images, and on all of the float model's PGD-20 images."""
    searched: Tensor
    """Of the file, under Square on the file."""

    @property
    def robust(self) -> Tensor:
        """Which images the file classifies correctly under both attacks."""
        return self.transferred & self.searched


ATTACKS = ("pgd20 of fp32", "pgd20-every-step of fp32", "square200")
"""The attacks behind `Judged.robust`, as rows name them.

PGD-20 of an evaluation stops an image at its first success on the float model. Such an image lies at the float model's
decision boundary, where rounding alone turns it back, so every image also takes all steps, whether or not the float
model classifies it correctly.
"""


@full_precision()
def judged(
    model: Tunable,
    point: Point,
    session: Session,
    dataset: Dataset,
    *,
    eps: float,
    norm: str = "linf",
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Judged:
    """What a file in a lower precision classifies correctly, by attacks that need no gradients of the file.

    The float model's PGD-20 images are transferred, both those that stop at the first success and those of all steps,
    and Square attacks the file (`ATTACKS`); `eps` in units of [0, 1]. `report` is called with events of progress.
    """
    lower = SessionModule(session)
    victim, square, pgd = victim_at(model, point), *(named(a, eps=eps, norm=norm) for a in ("square200", "pgd20"))
    whole = victim_at(lower)
    found: list[list[Tensor]] = []
    parts = chunks(dataset)
    report({"event": "plan", "attacks": len(ATTACKS), "images": len(dataset)})
    report({"event": "chunk", "done": 0, "total": len(parts)})
    for number, part in enumerate(parts):
        x, y = to_pixels(dataset.images[part]), dataset.labels[part]
        of_float = attack_chunk(victim, x, y, pgd, (0, "quantised", number))
        to_the_end = attack_chunk(victim, x, y, replace(pgd, drop=False), (0, "quantised", number), every=True)
        right = lower(x).argmax(1) == y
        survived = [lower(made.adversarial).argmax(1) == y for made in (of_float, to_the_end)]
        transferred = right & survived[0] & survived[1]
        searched = attack_chunk(whole, x, y, square, (0, "", square.name, number)).robust
        found.append([of_float.clean, of_float.robust, right, transferred, searched])
        report({"event": "chunk", "done": number + 1, "total": len(parts)})
    return Judged(*(torch.cat(bits) for bits in zip(*found, strict=True)))


def measured_again(
    model: Tunable,
    point: Point,
    path: Path,
    dataset: Dataset,
    *,
    eps: float,
    norm: str = "linf",
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """SA and RA of a quantised file and of the float model, on the same images; `eps` in units of [0, 1].

    RA of the file is a worst case per image: an image counts as robust if the file classifies it correctly both
    under the float model's PGD-20 image and under Square on the file. `report` is called with events of progress.
    """
    found = judged(model, point, Session(path), dataset, eps=eps, norm=norm, report=report)
    return {
        "n": len(dataset),
        "float_clean_accuracy": share(found.float_clean),
        "float_robust_accuracy": share(found.float_robust),
        "clean_accuracy": share(found.clean),
        "robust_accuracy_transfer": share(found.transferred),
        "robust_accuracy_square": share(found.searched),
        "robust_accuracy": share(found.robust),
    }
