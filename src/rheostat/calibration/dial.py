"""Fitting the dial's own scale: t → (λ, blend) such that robust accuracy is about linear in t."""

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
    """One measured place u of the path from clean to robust."""

    place: float
    clean: float
    robust: float


def on_path(model: Tunable, places: list[float]) -> Tunable:
    """A view of the model whose dial runs over the given places of its own path, linearly between."""
    dial_map = DialMap(
        tuple(places), tuple(model.method.path(u)[0] for u in places), tuple(model.method.path(u)[1] for u in places)
    )
    # Without a dual norm there is nothing to blend: the place alone is mapped.
    view = model.between("blend") if model.method.part(Dual) else copy.copy(model)
    view.dial_map = dial_map
    return view


@full_precision()
def calibrate_dial(
    model: Tunable, fit: Dataset, attack: Attack, *, coarse: int = 9, jump: float = 0.05, most: int = 21
) -> list[Knot]:
    """Fit `model.dial_map` on calibrate-fit and return the places that were measured.

    Measures SA and RA along the method's path (`Method.path`), halving where RA jumps by more than
    `jump` between neighbours, up to `most` places. A position t is the share of the rise of RA done
    by then (made monotone by a running maximum); places that add none are left out. Test is never
    an argument of this function: the caller hands over calibrate-fit.
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
    """The map through measured knots; ValueError when robust accuracy does not rise along them."""
    first, top = knots[0].robust, max(k.robust for k in knots)
    if top - first < 0.02:
        raise ValueError(
            f"robust accuracy does not rise along the dial ({first:.3f} to {top:.3f}); there is nothing to calibrate"
        )
    # 5 % of the scale follows the place itself, so that a plateau of RA still has a width.
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

    The clean set from clean images at λ = 0; the adversarial one from images attacked at λ = 1
    through this width, for which `attack` is needed. Weights stay. Never with test images. Source:
    slimmable networks (Yu & Huang, ICCV 2019, §3.1). ValueError names the widths there are.
    """
    if "width" not in model.dials:
        raise ValueError("this model has no dial 'width'")
    robust = [0.0, 1.0] if "robustness" in model.dials else [None]
    if robust[-1] is not None and attack is None:
        raise ValueError("the adversarial norm set is estimated on attacked images; give attack")
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
