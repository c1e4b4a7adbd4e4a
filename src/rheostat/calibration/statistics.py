"""Norm statistics estimated anew on held-out images, which weights that a norm has not seen in training need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from rheostat.attacks import Attack
from rheostat.data import Dataset, to_pixels
from rheostat.models.adoption import device_of
from rheostat.models.tunable import Tunable
from rheostat.nn.norms import NormSet
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.runtime.precision import full_precision
from rheostat.runtime.seeding import stream


@full_precision()
def estimate_statistics(
    model: Tunable,
    point: Point,
    data: Dataset,
    attack: Attack | None,
    *,
    attacked: float,
    batch: int = 128,
    seed: int = 0,
) -> None:
    """Re-estimate the norm statistics that a training pass at this point updates, as plain means over batches.

    `attacked` is the fraction of each batch that is attacked, at this point. As in training, the attack drops no row.
    Batches have at most `batch` images and nearly equal sizes. Weights do not change, and after an exception neither
    do the statistics. Raises ValueError for the test split, or if `attack` is missing and `attacked` is above 0.
    """
    data = data.to_choose_on().to(device_of(model))
    if attack is None and attacked:
        raise ValueError(f"{attacked:g} of each batch is to be attacked; pass `attack`")
    if attack is not None and attack.rowwise:  # the others have no such setting
        attack = replace(attack, drop=False)
    parts = max(1, -(-len(data) // batch))
    batches = zip(data.images.tensor_split(parts), data.labels.tensor_split(parts), strict=True)
    with restored_on_error(model) as sets:
        for number, (images, y) in enumerate(batches):
            x = to_pixels(images).clone()
            noise = stream(seed, "calibrate-segment", point.label(), number)
            clean = len(x) - round(attacked * len(x))
            if attack is not None and clean < len(x):
                goal = model.objective(y[clean:], point, phase=Phase.ATTACK, generator=noise)
                x[clean:] = attack(goal, x[clean:], noise)
            for norm in sets:
                norm.momentum = 1 / (number + 1)
            with torch.no_grad():
                model.read(x, model.resolve(point, x, phase=Phase.TRAIN, generator=noise))


@contextmanager
def restored_on_error(model: Tunable) -> Iterator[list[NormSet]]:
    """The norm sets of a model; afterwards their momentum is as before, and after an exception their statistics too."""
    sets = [m for m in model.modules() if isinstance(m, NormSet)]
    momenta = [m.momentum for m in sets]
    kept = [[b.clone() for b in m.buffers(recurse=False)] for m in sets]
    try:
        yield sets
    except BaseException:  # Ctrl-C too
        for norm, buffers in zip(sets, kept, strict=True):
            for mine, before in zip(norm.buffers(recurse=False), buffers, strict=True):
                mine.copy_(before)
        raise
    finally:
        for norm, momentum in zip(sets, momenta, strict=True):
            norm.momentum = momentum


def calibrate_norms(
    model: Tunable, width: float, *, data: Dataset, attack: Attack | None = None, batch: int = 128, seed: int = 0
) -> None:
    """Re-estimate the running statistics of one width's norm sets, as plain means over batches.

    The clean set is estimated on clean images at λ = 0, the adversarial set on images attacked at
    λ = 1 and this width; the latter needs `attack`, which drops no row, as in training. Weights do not change.
    Source: slimmable networks (Yu & Huang, ICCV 2019, §3.1). Raises ValueError for a model without
    the dial `width`, for an unknown width, if `attack` is missing, or for the test split.
    """
    data.to_choose_on()
    if "width" not in model.dials:
        raise ValueError("this model has no dial 'width'")
    if "robustness" not in model.dials:
        estimate_statistics(model, Point(width=width), data, None, attacked=0.0, batch=batch, seed=seed)
        return
    if attack is None:
        raise ValueError("the adversarial norm set is estimated on attacked images; pass `attack`")
    with restored_on_error(model):
        for level in (0.0, 1.0):
            point = Point(width=width, robustness=level)
            estimate_statistics(model, point, data, attack, attacked=level, batch=batch, seed=seed)
