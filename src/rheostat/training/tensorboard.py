"""Training curves for TensorBoard, where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def to_tensorboard(folder: Path, line: dict[str, Any]) -> None:
    """Add an epoch's numbers to an event file in the run's folder, where TensorBoard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard"), purge_step=line["step"]) as writer:
        for key, value in line.items():
            if isinstance(value, float):
                writer.add_scalar(key, value, line["step"])
        for scored in line.get("calibrate", []):
            at = "_".join(f"{k}-{v:g}" for k, v in scored["at"].items()) or "rest"
            for key in ("clean_accuracy", "robust_accuracy"):
                writer.add_scalar(f"calibrate/{at}/{key}", scored[key], line["step"])
