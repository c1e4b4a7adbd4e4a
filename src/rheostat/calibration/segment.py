"""Norm statistics along a segment of weights; interpolating the statistics of its ends is not accurate."""

from __future__ import annotations

from rheostat.attacks import Attack
from rheostat.calibration.after_training import FITTINGS, Fitting
from rheostat.calibration.statistics import estimate_statistics, restored_on_error
from rheostat.data import Dataset
from rheostat.methods.segment import KNOTS, knots_of
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point


def calibrate_segment(model: Tunable, data: Dataset, attack: Attack, *, batch: int = 128, seed: int = 0) -> None:
    """Estimate the norm statistics of every knot of the segment, at every width, as plain means over batches.

    At λ, a fraction λ of each batch is attacked at λ and the rest is clean, so that the ends see the same
    images as in training. Weights do not change. Raises ValueError for a model without knots (line and lora have
    them with `norms="re-estimated"`), or for the test split.
    """
    if not knots_of(model):
        raise ValueError('this model has no statistics along a segment; train line or lora with norms="re-estimated"')
    with restored_on_error(model):
        for point in _points(model):
            attacked = point.numbers()["robustness"]
            estimate_statistics(model, point, data, attack, attacked=attacked, batch=batch, seed=seed)


def _points(model: Tunable) -> list[Point]:
    """Every knot at every width."""
    widths = model.dials["width"].values if "width" in model.dials else None
    rests = [Point(width=width) for width in widths or ()] or [Point()]
    return [rest.replace(robustness=k / (KNOTS - 1)) for rest in rests for k in range(KNOTS)]


FITTINGS.append(Fitting("norms along the segment", lambda model: bool(knots_of(model)), calibrate_segment))
