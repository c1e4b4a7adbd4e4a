"""Calibration of the dial: a map t → (λ, blend) that makes robust accuracy approximately linear in t."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from rheostat.attacks import Attack
from rheostat.data import Dataset, subset
from rheostat.evaluation.attacked import worst_outcome
from rheostat.methods import Dual
from rheostat.models.adoption import device_of
from rheostat.models.tunable import Tunable
from rheostat.points.dial_map import DialMap
from rheostat.points.point import Point
from rheostat.results.intervals import exact, share
from rheostat.runtime.precision import Asked, full_precision, resolved

FINEST = 1 / 256
IMAGES = 500
"""Number of images on which a dial is fitted, unless the caller asks for another."""


@dataclass(frozen=True)
class Knot:
    """RA of `n` images, in [0, 1], measured at one place u of the path from clean (0) to robust (1)."""

    place: float
    robust: float
    n: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of RA; ValueError if the number of images is not known."""
        return exact(round(self.robust * self.n), self.n)


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
    model: Tunable,
    fit: Dataset,
    attack: Attack,
    *,
    coarse: int = 3,
    jump: float = 0.05,
    most: int = 21,
    images: int | None = IMAGES,
    precision: Asked = "auto",
) -> list[Knot]:
    """Fit `model.dial_map` on the split calibrate-fit and return the measured places.

    RA is measured at `coarse` places along the method's path (`Method.path`). Intervals over which RA changes by more
    than `jump` are halved, up to `most` places in total. The position t of a place is the fraction of the total rise of
    RA reached there (a running maximum makes it monotone); places that add no rise are dropped.

    RA is that of a stratified subset of `images` images (None: all), and each knot states its interval. Only rows that
    a place can decide are attacked there (`undecided`). With `precision` "bf16" an attack that can be finished in fp32
    runs in bf16 first; "auto" is bf16 if the chip multiplies bf16 natively. All images are judged in fp32. Where the
    logits mislead an attack (`Method.misleads`), RA is the worst case over every form of attack.

    Pass calibrate-fit as `fit`. Raises ValueError if the model has no dial `robustness`, if RA does not rise along it,
    or for the test split.
    """
    if "robustness" not in model.dials:
        raise ValueError("this model has no dial 'robustness' to calibrate")
    data = subset(fit.to_choose_on(), images).to(device_of(model))
    low = resolved(precision, data.images.device) == "bf16"
    places = [i / (coarse - 1) for i in range(coarse)]
    path = on_path(model, sorted({*places, 0.5}))
    bits: dict[float, Tensor] = {}

    def measure(u: float) -> None:
        at = Point(robustness=u)
        rows, known = undecided(bits, u, len(data), halving=len(bits) >= coarse)
        if len(rows):
            known[rows] = worst_outcome(path, at, data.only(rows.to(data.images.device)), attack, low=low).robust
        bits[u] = known

    for i in halvings(coarse):
        measure(places[i])
    while len(bits) < most:
        gaps = [
            (abs(share(bits[b]) - share(bits[a])), a, b) for a, b in itertools.pairwise(sorted(bits)) if b - a > FINEST
        ]
        widest, start, end = max(gaps, default=(0.0, 0.0, 0.0))
        if widest <= jump:
            break
        measure((start + end) / 2)
    knots = [Knot(u, share(bits[u]), len(data)) for u in sorted(bits)]
    model.dial_map = fitted(model, knots)
    return knots


def undecided(bits: dict[float, Tensor], u: float, n: int, *, halving: bool) -> tuple[Tensor, Tensor]:
    """(indices of the rows to attack at the place u, robust bits (n,) of the others), by the neighbours' bits (n,).

    A row that stands at both neighbours counts as standing. While an interval is halved, a row that falls at both also
    counts as fallen; at the coarse places it is attacked, because RA may peak inside the dial.
    """
    lower, upper = max((p for p in bits if p < u), default=None), min((p for p in bits if p > u), default=None)
    if lower is None or upper is None:
        return torch.arange(n), torch.zeros(n, dtype=torch.bool)
    standing = bits[lower] & bits[upper]
    rows = bits[lower] ^ bits[upper] if halving else ~standing
    return rows.nonzero()[:, 0], standing


def halvings(count: int) -> list[int]:
    """The indices 0 to count-1 from the last, the first, and then the middle of each remaining range."""
    order, ranges = [count - 1, 0], [(0, count - 1)]
    while ranges:
        low, high = ranges.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            ranges += [(low, middle), (middle, high)]
    return order


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
