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


def decay_at(step: int, decay: float) -> float:
    """The decay after a number of steps: (1 + step) / (10 + step) until that exceeds `decay`.

    The average then covers about the last tenth of the steps so far. With a fixed decay, the state after the first step
    keeps a share of decay^step, and the variances of the norms of a new network are so large that a share of 0.5 %
    spoils the statistics. Source: the moving average of TensorFlow with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


def updated(average: dict[str, Tensor] | None, model: nn.Module, decay: float, step: int) -> dict[str, Tensor]:
    """Update the average in place after a number of steps; the first one is a copy of the model's state."""
    current = model.state_dict()
    if average is None:
        return {k: v.detach().clone() for k, v in current.items()}
    for key in averaged_names(model):
        average[key].lerp_(current[key].detach(), 1 - decay_at(step, decay))
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
