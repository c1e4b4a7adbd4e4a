"""An exponential moving average of the weights (`train.ema`), which is scored and kept instead of them.

Based on Izmailov et al. (UAI 2018). Only parameters and the statistics of norms are averaged. Masks, code tables and
thresholds are copied, because the mean of two masks is not a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheostat.nn.layers import Conv, Dense
from rheostat.nn.masking import Masking

STATISTICS = ("running_mean", "running_var")


def averaged_names(model: nn.Module) -> set[str]:
    """The state entries that are averaged: floating-point parameters, and statistics of norms."""
    names = {name for name, p in model.named_parameters() if p.is_floating_point()}
    return names | {name for name, _ in model.named_buffers() if name.rpartition(".")[2] in STATISTICS}


def updated(average: dict[str, Tensor] | None, model: nn.Module, decay: float) -> dict[str, Tensor]:
    """Update the average in place after a step; the first one is a copy of the model's state."""
    current = model.state_dict()
    if average is None:
        return {k: v.detach().clone() for k, v in current.items()}
    for key in averaged_names(model):
        average[key].lerp_(current[key].detach(), 1 - decay)
    follow(average, model)
    return average


@torch.no_grad()
def follow(average: dict[str, Tensor], model: nn.Module) -> None:
    """Copy entries that are not averaged (mainly masks) into the average, and apply its masks to its weights."""
    kept = averaged_names(model)
    for key, value in model.state_dict().items():
        if key not in kept:
            average[key].copy_(value)
    for name, seat in model.named_modules():
        if isinstance(seat, Conv | Dense):
            for transform in seat.transforms:
                if isinstance(transform, Masking):
                    average[f"{name}.weight"].mul_(transform.union())
