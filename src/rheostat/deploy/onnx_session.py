"""An exported ONNX file run by ONNX Runtime or OpenVINO: one graph, or stages with real early exit."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rheostat.attacks.multi_exit import MEASURES
from rheostat.deploy.runtimes import Array, Precision, open_graph
from rheostat.models.inputs import check_range

STAGES = 64
"""The most stages that a file may name."""


def unsure(logits: Array, measure: str) -> Array:
    """The exit policy's measure of (n, K) logits, as in `attacks.exits.uncertainty`."""
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
    """A file's description of itself; ValueError that names the file where it is not one of `export`'s."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its description is not a JSON object")
    stages = found.get("stages", 1)
    if type(stages) is not int or not 1 <= stages <= STAGES:
        raise ValueError(f"{path}: it has from 1 to {STAGES} stages, given {str(stages)[:20]}")
    if "stages" in found:
        limits = found.get("thresholds")
        if (
            not isinstance(limits, list)
            or len(limits) < stages - 1
            or not all(type(v) in (int, float) and v == v for v in limits)
        ):
            raise ValueError(f"{path}: an exit of its stages has no threshold")
        if found.get("measure") not in MEASURES:
            raise ValueError(f"{path}: its exit measure is not one of {', '.join(MEASURES)}")
    return found


class Session:
    """images (B, C, H, W) float32 in [0, 1] → logits (B, K); `about` is the file's own description.

    A file with a live dial takes `robustness`, a number or one per row. Stages lie beside the first
    file, and a row that leaves at one does not run the next. `runtime` is "onnx" or "openvino", `precision`
    "fp32", "bf16" or "auto" (what the chip multiplies natively; OpenVINO alone). ONNX Runtime's threads that may
    `spin` wait busily between runs: a little faster, and in the way of whatever else the machine does.
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
        self.stages = [open_one(path)]
        self.precision = self.stages[0].precision
        text = self.stages[0].description
        if text is None:
            raise ValueError(f"{path}: an ONNX file, but not one of Rheostat's")
        self.about = _about(path, text)
        for number in range(1, self.about.get("stages", 1)):
            self.stages.append(open_one(path.with_name(f"{path.stem}.stage-{number}{path.suffix}")))

    def __call__(self, images: Array, robustness: float | Array | None = None, *, validate: bool = True) -> Array:
        """Logits of a batch (B, C, H, W) of pixels in [0, 1].

        ValueError for pixels of another range, as the model has it; `validate=False` leaves that out.
        """
        if validate and images.size and np.issubdtype(images.dtype, np.floating):
            check_range(float(images.min()), float(images.max()))
        if "live" in self.about:
            if robustness is None:
                raise ValueError("this file's dial is live: give robustness")
            level = np.broadcast_to(np.asarray(robustness, np.float32), (len(images),)).copy()
            logits: Array = self.stages[0].run({"images": images, "robustness": level})[0]
            return logits
        if robustness is not None:
            raise ValueError("this file is folded at one point; its dial does not turn")
        if len(self.stages) == 1 and "stages" not in self.about:
            logits = self.stages[0].run({"images": images})[0]
            return logits
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
                leaves = unsure(logits, self.about["measure"]) < self.about["thresholds"][number]
            out[rows[leaves]] = logits[leaves]
            rows, x = rows[~leaves], np.ascontiguousarray(x[~leaves])
            if not len(rows):
                break
        assert out is not None
        return out


class SessionModule(nn.Module):
    """A session as a module without gradients: images (B, C, H, W) → logits (B, K)."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session(x.detach().float().numpy(), validate=False))
