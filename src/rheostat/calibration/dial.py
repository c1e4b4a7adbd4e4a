"""Calibration of the dial: a map t → (λ, blend) that makes robust accuracy approximately linear in t."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch

from rheostat.attacks import Attack
from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import outcome
from rheostat.methods import Dual
from rheostat.models.tunable import Tunable
from rheostat.nn.norms import NormSet
from rheostat.points.dial_map import DialMap
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.results.intervals import share
from rheostat.runtime.precision import full_precision
from rheostat.runtime.seeding import stream

FINEST = 1 / 256


@dataclass(frozen=True)
class Knot:
    """SA and RA, in [0, 1], measured at one place u of the path from clean (0) to robust (1)."""

    place: float
    clean: float
    robust: float


def on_path(model: Tunable, places: list[float]) -> Tunable:
    """A view of the model whose dial follows its path through the given places, linear in between."""
    dial_map = DialMap(
        tuple(places), tuple(model.method.path(u)[0] for u in places), tuple(model.method.path(u)[1] for u in places)
    )
    # Without a dual norm there is nothing to blend: only λ is mapped.
    view = model.between("blend") if model.method.part(Dual) else copy.copy(model)
    view.dial_map = dial_map
    return view


@full_precision()
def calibrate_dial(
    model: Tunable, fit: Dataset, attack: Attack, *, coarse: int = 9, jump: float = 0.05, most: int = 21
) -> list[Knot]:
    """Fit `model.dial_map` on the split calibrate-fit and return the measured places.

    SA and RA are measured at `coarse` places along the method's path (`Method.path`). Intervals over
    which RA changes by more than `jump` are halved, up to `most` places in total. The position t of a
    place is the fraction of the total rise of RA reached there (a running maximum makes it monotone);
    places that add no rise are dropped. Pass calibrate-fit as `fit`, never the test split. Raises
    ValueError if the model has no dial `robustness`, or if RA does not rise along the dial.
    """
    if "robustness" not in model.dials:
        raise ValueError("this model has no dial 'robustness' to calibrate")
    places = [i / (coarse - 1) for i in range(coarse)]
    path = on_path(model, sorted({*places, 0.5}))
    measured: dict[float, Knot] = {}

    def measure(u: float) -> Knot:
        if u not in measured:
            found = outcome(path, Point(robustness=u), fit, attack)
            measured[u] = Knot(u, share(found.clean), share(found.robust))
        return measured[u]

    for u in places:
        measure(u)
    while len(measured) < most:
        knots = sorted(measured.values(), key=lambda k: k.place)
        gaps = [
            (abs(b.robust - a.robust), a.place, b.place)
            for a, b in itertools.pairwise(knots)
            if b.place - a.place > FINEST
        ]
        widest, low, high = max(gaps, default=(0.0, 0.0, 0.0))
        if widest <= jump:
            break
        measure((low + high) / 2)
    knots = sorted(measured.values(), key=lambda k: k.place)
    model.dial_map = fitted(model, knots)
    return knots


def fitted(model: Tunable, knots: list[Knot]) -> DialMap:
    """The map through measured knots; raises ValueError if robust accuracy does not rise along them."""
    first, top = knots[0].robust, max(k.robust for k in knots)
    if top - first < 0.02:
        raise ValueError(
            f"robust accuracy does not rise along the dial ({first:.3f} to {top:.3f}), so it cannot be calibrated"
        )
    # 5 % of the scale is linear in the place, so that a plateau of RA still has a width.
    kept, risen = [knots[0]], first
    for knot in knots[1:-1]:
        if knot.robust > risen:
            kept.append(knot)
            risen = knot.robust
    kept.append(knots[-1])
    span = max(risen, knots[-1].robust) - first
    positions, best = [], first
    for knot in kept:
        best = max(best, knot.robust)
        positions.append(0.95 * (best - first) / span + 0.05 * knot.place)
    positions[0], positions[-1] = 0.0, 1.0
    paths = [model.method.path(k.place) for k in kept]
    return DialMap(tuple(positions), tuple(p[0] for p in paths), tuple(p[1] for p in paths))


@full_precision()
def calibrate_norms(
    model: Tunable, width: float, *, data: Dataset, attack: Attack | None = None, batch: int = 128, seed: int = 0
) -> None:
    """Re-estimate the running statistics of one width's norm sets, as plain means over batches.

    The clean set is estimated on clean images at λ = 0, the adversarial set on images attacked at
    λ = 1 and this width; the latter needs `attack`. Weights do not change. Do not pass test images.
    Source: slimmable networks (Yu & Huang, ICCV 2019, §3.1). Raises ValueError for a model without
    the dial `width`, for an unknown width, or if `attack` is missing.
    """
    if "width" not in model.dials:
        raise ValueError("this model has no dial 'width'")
    robust = [0.0, 1.0] if "robustness" in model.dials else [None]
    if robust[-1] is not None and attack is None:
        raise ValueError("the adversarial norm set is estimated on attacked images; pass `attack`")
    points = [Point(width=width, **({} if r is None else {"robustness": r})) for r in robust]
    sets = [m for m in model.modules() if isinstance(m, NormSet)]
    before = [m.momentum for m in sets]
    try:
        for point in points:
            for number, first in enumerate(range(0, len(data), batch)):
                x = to_pixels(data.images[first : first + batch])
                y = data.labels[first : first + batch]
                noise = stream(seed, "calibrate-norms", point.label(), number)
                if attack is not None and point.get("robustness") == 1.0:
                    goal = model.objective(y, point, phase=Phase.ATTACK, generator=noise)
                    x = attack(goal, x, noise)
                for norm in sets:
                    norm.momentum = 1 / (number + 1)
                with torch.no_grad():
                    model.read(x, model.resolve(point, x, phase=Phase.TRAIN, generator=noise))
    finally:
        for norm, momentum in zip(sets, before, strict=True):
            norm.momentum = momentum
