"""Learning rates: what share of the optimiser's rate each step takes, on torch's own scheduler."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR

from rheostat.training.settings import Settings

RISE = 0.3
"""The share of training over which one-cycle rises."""


def milestones(settings: Settings, total: int) -> list[int]:
    """The steps at which a multi-step rate falls: `train.milestones`, shares of `total` turned into steps."""
    return [round(m * total) if m < 1 else int(m) for m in settings.train.milestones]


def share_of_rate(settings: Settings, total: int, *, per_epoch: int = 1) -> Callable[[int], float]:
    """Step of `total` (from 0) → the factor on `train.lr`: the schedule's, times that of the warm-up.

    cosine: (1 + cos πs)/2 at the share s of training, to 0. one-cycle: up from 0.04 by a cosine over
    30 %, then down to 0 by another. multi-step: `gamma` to the number of milestones passed. constant: 1.
    With `train.rate_by` "epoch" all steps of an epoch (`per_epoch`) take the factor of its first.
    """
    train = settings.train
    falls, rise = milestones(settings, total), RISE * total
    warm = train.warmup * total

    def schedule(step: int) -> float:
        if train.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / total))
        if train.schedule == "multi-step":
            return train.gamma ** bisect_right(falls, step)
        if train.schedule == "constant":
            return 1.0
        if step < rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / rise))
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))

    def warmed(step: int) -> float:
        return schedule(step) * min(1.0, (step + 1) / warm) if warm else schedule(step)

    return warmed if train.rate_by == "step" else lambda step: warmed(step // per_epoch * per_epoch)


def scheduler(
    optimiser: torch.optim.Optimizer, settings: Settings, total: int, *, per_epoch: int = 1, done: int = 0
) -> LambdaLR:
    """The scheduler of a run of `total` steps, `done` of which are behind it; it sets the rate at once.

    The rate depends on the step alone, so a run that is continued takes the rates of one that was not.
    """
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimiser, share_of_rate(settings, total, per_epoch=per_epoch), last_epoch=done - 1)
