"""Precisions in which a point can be served: the file and the runtime of each.

fp32 is what the model is measured in. bf16 is the same file under OpenVINO, on a chip that multiplies bf16; int8 is a
quantised file under ONNX Runtime, and int8-openvino is that file under OpenVINO. The two runtimes round differently, so
each is measured for itself. A point that was chosen in one of them carries its name among its numbers (`precision`);
the file of a quantised point lies beside the model's file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session
from rheostat.deploy.quantising import quantise
from rheostat.deploy.runtimes import Precision
from rheostat.models.artifact import About
from rheostat.models.quantised_files import beside
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.choices import check_choice
from rheostat.runtime.precision import native_bf16

FULL = "fp32"


@dataclass(frozen=True)
class Form:
    """The form in which a point is served in a precision: the kind of file, and what runs it.

    `forms` are those of `rheostat bench` in which it is served; of several, the fastest. `quantised` files are the same
    for every runtime. `products` is the precision that the runtime is asked for.
    """

    forms: tuple[str, ...]
    quantised: bool = False
    openvino: bool = False
    products: Precision = "fp32"

    @property
    def runtime(self) -> str:
        """The runtime that opens its file: OpenVINO if it needs that, else ONNX Runtime.

        In fp32 a server may choose another.
        """
        return "openvino" if self.openvino else "onnx"


SERVED = {
    FULL: Form(("ONNX Runtime", "OpenVINO fp32")),
    "bf16": Form(("OpenVINO bf16",), openvino=True, products="bf16"),
    "int8": Form(("ONNX Runtime int8",), quantised=True),
    "int8-openvino": Form(("OpenVINO int8",), quantised=True, openvino=True),
}
LOWER = tuple(precision for precision in SERVED if precision != FULL)
"""Precisions other than that of the model; a point is served in one only if it was measured in it."""
CALIBRATED_ON = 256
"""Images of calibrate-fit that give the ranges of an int8 file."""
Key = tuple[Point, str]
"""A point and the precision that it is served in."""


def check_precision(asked: str) -> None:
    """Raise ValueError for an unknown precision."""
    check_choice("a served point", "precision", asked, SERVED)


def precision_of(numbers: Mapping[str, Any]) -> str:
    """The precision that a named point's numbers were measured in, and that it is served in; fp32 if none is named."""
    return str(numbers.get("precision", FULL))


def lacking(precision: str) -> str:
    """What this machine lacks to run a precision, as a few words; empty if it lacks nothing."""
    if SERVED[precision].openvino and importlib.util.find_spec("openvino") is None:
        return "it needs OpenVINO: pip install 'rheostat[openvino]'"
    if SERVED[precision].products == "bf16" and not native_bf16(torch.device("cpu")):
        return "this CPU does not multiply bf16 natively"
    return ""


def check_runs_here(precision: str) -> None:
    """Raise ValueError for an unknown precision, or if this machine lacks something for it."""
    check_precision(precision)
    if problem := lacking(precision):
        raise ValueError(f"{precision} cannot run here: {problem}")


def write_in(
    precision: str, model: Tunable, about: About, out: Path, *, at: str | Point, images: Tensor, artifact: str = ""
) -> Path:
    """Write the file of a point that runs in a precision, and return its path.

    `images` (n, C, H, W) give the ranges of int8. Raises ValueError as `export` and `quantise` do.
    """
    check_precision(precision)
    point = model.at(at).point
    if SERVED[precision].quantised and model.method.live(point):
        raise ValueError(f"{point.label()} has live exits, which make one file per stage: {precision} needs exit=0")
    paths = export(model, about, out, at=at, artifact=artifact)
    return quantise(out, out, images) if SERVED[precision].quantised else paths[0]


def open_in(precision: str, file: Path, *, threads: int | None = None, spin: bool = True) -> Session:
    """A session of a written file in a precision; raises ValueError if this machine lacks something for it."""
    check_runs_here(precision)
    how = SERVED[precision]
    return Session(file, runtime=how.runtime, precision=how.products, threads=threads, spin=spin)


def stored_int8(model_file: Path, name: str, point: Point, *, artifact: str) -> Path:
    """The int8 file of a named point; raises ValueError if it is missing, or is of another model or point."""
    file = beside(model_file, name)
    again = f"choose the point again, or copy {file.name} with the model"
    if not file.is_file():
        raise ValueError(f"{name!r} is served as a quantised file, but its file {file} is missing: {again}")
    about = Session(file).about
    found = (about.get("artifact"), about.get("quantised"), about.get("point"))
    if found != (artifact, "int8", point.numbers()):
        raise ValueError(f"{file} is not the int8 file of {name!r} of this model (hash {artifact}): {again}")
    return file
