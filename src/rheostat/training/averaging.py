"""A running average of the weights (`train.ema`), which is what is scored and kept.

Izmailov et al. (UAI 2018), as a running mean. Only parameters and the statistics of norms are averaged:
a mask, a code table or a threshold is taken as it is, for the mean of two masks is no mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheostat.nn.layers import Conv, Dense
from rheostat.nn.masking import Masking

STATISTICS = ("running_mean", "running_var")


def averaged_names(model: nn.Module) -> set[str]:
    """The entries of the state that are averaged: floating-point parameters, and statistics of norms."""
    names = {name for name, p in model.named_parameters() if p.is_floating_point()}
    return names | {name for name, _ in model.named_buffers() if name.rpartition(".")[2] in STATISTICS}


def updated(average: dict[str, Tensor] | None, model: nn.Module, decay: float) -> dict[str, Tensor]:
    """The average after a step, changed in place; a first one is a copy of the model's state."""
    current = model.state_dict()
    if average is None:
        return {k: v.detach().clone() for k, v in current.items()}
    for key in averaged_names(model):
        average[key].lerp_(current[key].detach(), 1 - decay)
    follow(average, model)
    return average


@torch.no_grad()
def follow(average: dict[str, Tensor], model: nn.Module) -> None:
    """Give the average what is not averaged (masks above all), and no weight where its masks have none."""
    kept = averaged_names(model)
    for key, value in model.state_dict().items():
        if key not in kept:
            average[key].copy_(value)
    for name, seat in model.named_modules():
        if isinstance(seat, Conv | Dense):
            for transform in seat.transforms:
                if isinstance(transform, Masking):
                    average[f"{name}.weight"].mul_(transform.union())
