"""Sessions that run an exported ONNX file with ONNX Runtime or OpenVINO: one graph, or stages with early exit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rheostat.attacks.multi_exit import MEASURES
from rheostat.deploy.runtimes import Array, Graph, Precision, open_graph
from rheostat.models.inputs import check_range
from rheostat.points.dial import Dial

STAGES = 64
"""The most stages that a file may declare."""


def unsure(logits: Array, measure: str) -> Array:
    """The uncertainty of (n, K) logits, (n,), as in `attacks.multi_exit.uncertainty`."""
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(1, keepdims=True)
    if measure == "entropy":
        found: Array = -(p * np.log(np.clip(p, 1e-38, None))).sum(1)
        return found
    top = np.sort(p, 1)
    found = 1 - top[:, -1] + (top[:, -2] if measure == "margin" else 0)
    return found


def _about(path: Path, text: str) -> dict[str, Any]:
    """The description in a file; raises ValueError that names the file if `export` did not write it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its description is not a JSON object")
    stages = found.get("stages", 1)
    if type(stages) is not int or not 1 <= stages <= STAGES:
        raise ValueError(f"{path}: the number of stages must be from 1 to {STAGES}, given {str(stages)[:20]}")
    if "stages" in found:
        limits = found.get("thresholds")
        if (
            not isinstance(limits, list)
            or len(limits) < stages - 1
            or not all(type(v) in (int, float) and v == v for v in limits)
        ):
            raise ValueError(f"{path}: an exit has no threshold")
        if found.get("measure") not in MEASURES:
            raise ValueError(f"{path}: its exit measure is not one of {', '.join(MEASURES)}")
    return found


def _robustness(path: Path, about: Mapping[str, Any]) -> Dial:
    """The dial of robustness as a description gives it; raises ValueError that names the file if that is no dial."""
    try:
        found = about.get("dials", {}).get("robustness", {})
        low, high, values = float(found.get("low", 0)), float(found.get("high", 1)), found.get("values")
        return Dial("robustness", low, low, high, None if values is None else tuple(map(float, values)) or None)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{path}: its robustness dial is not described by numbers") from None


def stage_file(first: Path, number: int) -> Path:
    """Where the file of a stage lies: beside that of the first."""
    return first if number == 0 else first.with_name(f"{first.stem}.stage-{number}{first.suffix}")


class Session:
    """Images (B, C, H, W) float32 in [0, 1] → logits (B, K); `about` is the description stored in the file.

    A file with a live dial also takes `robustness`, one number or one per row. The files of further stages lie
    beside the first and must be of the same export; a row that leaves at an exit does not run the later stages.
    `runtime` is "onnx" or "openvino". `precision` is "fp32", "bf16" or "auto" (bf16 if the chip multiplies it
    natively; OpenVINO only). With `spin`, the threads of ONNX Runtime wait busily between runs: slightly faster, at
    the expense of other processes. Raises ValueError for a missing or foreign file, or an unknown runtime or precision.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        runtime: str = "onnx",
        precision: Precision = "fp32",
        threads: int | None = None,
        spin: bool = True,
    ) -> None:
        path = Path(path)
        open_one = partial(open_graph, runtime=runtime, precision=precision, threads=threads, spin=spin)
        self.stages: list[Graph] = [open_one(path)]
        self.precision = self.stages[0].precision
        text = self.stages[0].description
        if text is None:
            raise ValueError(f"{path}: an ONNX file that Rheostat did not export")
        self.about = _about(path, text)
        self._dial = _robustness(path, self.about)
        for number in range(1, self.about.get("stages", 1)):
            file = stage_file(path, number)
            self.stages.append(open_one(file))
            own = _about(file, self.stages[-1].description or "")
            if json.dumps(own) != json.dumps(self.about | {"stage": number}):
                raise ValueError(f"{file} is not stage {number} of the export in {path.name}: export the point again")
        self.thresholds: list[float] = self.about.get("thresholds", [])

    def __call__(self, images: Array, robustness: float | Array | None = None, *, validate: bool = True) -> Array:
        """Logits (B, K) of a batch (B, C, H, W) of pixels in [0, 1].

        Raises ValueError for pixels outside this range and for positions that the dial does not have, as the model
        does; `validate=False` omits these checks.
        """
        if validate and images.size and np.issubdtype(images.dtype, np.floating):
            check_range(float(images.min()), float(images.max()))
        if "live" in self.about:
            if robustness is None:
                raise ValueError("this file has a live dial; pass robustness")
            level = np.broadcast_to(np.asarray(robustness, np.float32), (len(images),)).copy()
            if validate:
                self._dial.checked_rows(torch.from_numpy(level))
            return self.stages[0].run({"images": images, "robustness": level})[0].copy()
        if robustness is not None:
            raise ValueError("this file is folded at one point and takes no robustness")
        if len(self.stages) == 1 and "stages" not in self.about:
            return self.stages[0].run({"images": images})[0].copy()
        return self._early(images)

    def _early(self, images: Array) -> Array:
        rows, x, out = np.arange(len(images)), images, None
        for number, stage in enumerate(self.stages):
            x, logits = stage.run({"features": x})
            if out is None:
                out = np.empty((len(images), logits.shape[1]), np.float32)
            last = number == len(self.stages) - 1
            leaves = np.ones(len(rows), bool)
            if not last:
                leaves = unsure(logits, self.about["measure"]) < self.thresholds[number]
            out[rows[leaves]] = logits[leaves]
            if leaves.all():
                break
            if leaves.any():
                rows, x = rows[~leaves], x[~leaves]
        assert out is not None
        return out


class SessionModule(nn.Module):
    """A session as a module without gradients: images (B, C, H, W) → logits (B, K)."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session(x.detach().float().numpy(), validate=False))
