"""Norm statistics along a segment of weights; interpolating the statistics of its ends is not accurate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rheostat.attacks import Attack
from rheostat.calibration.after_training import FITTINGS, Fitting
from rheostat.data import Dataset, to_pixels
from rheostat.methods.segment import KNOTS, knots_of
from rheostat.models.tunable import Tunable
from rheostat.nn.norms import NormSet
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.runtime.precision import full_precision
from rheostat.runtime.seeding import stream


@full_precision()
def calibrate_segment(model: Tunable, data: Dataset, attack: Attack, *, batch: int = 128, seed: int = 0) -> None:
    """Estimate the norm statistics of every knot of the segment, at every width, as plain means over batches.

    At λ, a fraction λ of each batch is attacked at λ and the rest is clean, so that the ends see the same
    images as in training. Weights do not change. Raises ValueError for a model without knots (line and lora have
    them with `norms="re-estimated"`), or for the test split.
    """
    if not knots_of(model):
        raise ValueError('this model has no statistics along a segment; train line or lora with norms="re-estimated"')
    for point in _points(model):
        attacked = point.numbers()["robustness"]
        estimate_statistics(model, point, data, attack, attacked=attacked, batch=batch, seed=seed)


@full_precision()
def estimate_statistics(
    model: Tunable, point: Point, data: Dataset, attack: Attack, *, attacked: float, batch: int = 128, seed: int = 0
) -> None:
    """Re-estimate the norm statistics that a training pass at this point updates, as plain means over batches.

    `attacked` is the fraction of each batch that is attacked, at this point. Weights do not change. Raises ValueError
    for the test split.
    """
    data.to_choose_on()
    sets = [m for m in model.modules() if isinstance(m, NormSet)]
    before = [m.momentum for m in sets]
    try:
        for number, (x, y) in enumerate(_batches(data, batch)):
            noise = stream(seed, "calibrate-segment", point.label(), number)
            clean = len(x) - round(attacked * len(x))
            x = x.clone()
            if clean < len(x):
                goal = model.objective(y[clean:], point, phase=Phase.ATTACK, generator=noise)
                x[clean:] = attack(goal, x[clean:], noise)
            for norm in sets:
                norm.momentum = 1 / (number + 1)
            with torch.no_grad():
                model.read(x, model.resolve(point, x, phase=Phase.TRAIN, generator=noise))
    finally:
        for norm, momentum in zip(sets, before, strict=True):
            norm.momentum = momentum


def _points(model: Tunable) -> list[Point]:
    """Every knot at every width."""
    widths = model.dials["width"].values if "width" in model.dials else None
    rests = [Point(width=width) for width in widths or ()] or [Point()]
    return [rest.replace(robustness=k / (KNOTS - 1)) for rest in rests for k in range(KNOTS)]


def _batches(data: Dataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(data), size):
        yield to_pixels(data.images[first : first + size]), data.labels[first : first + size]


FITTINGS.append(Fitting("norms along the segment", lambda model: bool(knots_of(model)), calibrate_segment))
