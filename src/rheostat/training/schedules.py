"""Learning-rate schedules as factors on the optimiser's rate, for torch's LambdaLR."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR

from rheostat.training.settings import Settings

RISE = 0.3
"""The share of training over which the one-cycle rate rises."""


def milestones(settings: Settings, total: int) -> list[int]:
    """The steps at which a multi-step rate falls: `train.milestones`, shares of `total` turned into steps."""
    return [round(m * total) if m < 1 else int(m) for m in settings.train.milestones]


def share_of_rate(settings: Settings, total: int, *, per_epoch: int = 1) -> Callable[[int], float]:
    """A function from the step (from 0) of `total` to the factor on `train.lr`: schedule times warm-up.

    cosine: (1 + cos πs)/2 at the share s of training. one-cycle: a cosine rise from 0.04 over 30 %, then a cosine
    fall to 0. multi-step: `gamma` to the power of the number of milestones passed. constant: 1. With `train.rate_by`
    "epoch" all `per_epoch` steps of an epoch use the factor of its first step.
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
    """The scheduler of a run of `total` steps after `done` of them; it sets the rate at once.

    The rate depends only on the step, so a resumed run uses the same rates as an uninterrupted one.
    """
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimiser, share_of_rate(settings, total, per_epoch=per_epoch), last_epoch=done - 1)
