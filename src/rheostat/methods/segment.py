"""Norms, training terms and dial path shared by methods whose weights lie on a segment (`line`, `lora`).

The weights are linear in λ, but the statistics are not: a norm after W(½) does not see the mean of what the norms
after W(0) and W(1) see. `Knots` therefore keeps statistics at several positions along the segment. Sources: PaMaL
(Dimitriadis et al., ICML 2023) and PaLoRA (ICLR 2025); the three treatments of norms are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rheostat.methods.base import Term
from rheostat.methods.terms import in_two
from rheostat.nets.base import Net
from rheostat.nn.layers import Conv, Dense, Seat, seats
from rheostat.nn.norms import AffineSet, Modulation, Norm, NormSet
from rheostat.points.point import Point
from rheostat.points.resolved import Level, Resolved
from rheostat.runtime.choices import check_choice

NORMS = ("banked", "affine", "re-estimated")
PLANS = ("halves", "sampled")
KNOTS = 11
"""Number of positions along the segment that have statistics: λ = 0, 0.1, ... 1."""
LEAST = 0.1
"""The smallest λ above 0 that the sampled plan draws."""


class Tilt(Modulation):
    """The affine part of a norm on a segment: scale and shift are linear in λ.

    It applies γ = 1 + λ·g and β = λ·h to the first end's affine map, which can represent every straight line.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        level, width = at.robustness.table[:, None], scale.shape[1]
        gamma = 1 + level * self.gamma[:width]
        return scale * gamma, torch.addcmul(level * self.beta[:width], shift, gamma)


class Knots(NormSet):
    """One affine map with statistics at `KNOTS` positions along the segment, (KNOTS, C) each, linear in between.

    A training pass updates the nearest knot. Until `calibration.segment.calibrate_segment` estimates them, the inner
    knots interpolate the statistics of the ends.
    """

    def __init__(self, start: NormSet) -> None:
        super().__init__(start.channels, eps=start.eps, momentum=start.momentum)
        self.take(start)
        self.running_mean = self.running_mean.repeat(KNOTS, 1)
        self.running_var = self.running_var.repeat(KNOTS, 1)

    def copy(self) -> Knots:
        return copy.deepcopy(self)

    def resized(self, channels: int) -> Knots:
        return Knots(NormSet(channels, eps=self.eps, momentum=self.momentum))

    def pick(self, at: Resolved) -> NormSet:
        """The set of one knot. Its statistics share the table's memory, so updates change the table."""
        level = at.robustness
        mean = float(level.table.mean()) if level.number is None else level.number
        place = round(mean * (KNOTS - 1))
        view = copy.copy(self)
        view._buffers = {"running_mean": self.running_mean[place], "running_var": self.running_var[place]}
        return view

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        place = at.robustness.table * (KNOTS - 1)
        low = place.floor().clamp(max=KNOTS - 2)
        first, along = low.long(), (place - low)[:, None]
        mean = torch.lerp(self.running_mean[first], self.running_mean[first + 1], along)
        var = torch.lerp(self.running_var[first], self.running_var[first + 1], along)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return scale, self.bias - mean * scale

    @torch.no_grad()
    def straighten(self) -> None:
        """Interpolate the inner knots linearly between the ends, unless they have been estimated."""
        for values in (self.running_mean, self.running_var):
            along = torch.linspace(0, 1, KNOTS, device=values.device)[1:-1, None]
            values[1:-1] = torch.lerp(values[:1], values[-1:], along)


def check_segment(who: str, norms: str, plan: str) -> None:
    """ValueError if `norms` or `plan` is not an allowed value."""
    check_choice(who, "norms", norms, NORMS)
    check_choice(who, "terms", plan, PLANS)


def install_norms(net: Net, who: str, norms: str) -> None:
    """Prepare every norm for the mode `norms`; ValueError if the number of norm sets contradicts it."""
    found = [
        (parent, name, child)
        for parent in list(net.modules())
        for name, child in parent.named_children()
        if isinstance(child, AffineSet)
    ]
    banked = any(name == "adversarial" for _, name, _ in found)
    if norms == "banked":
        if found and not banked:
            raise ValueError(f'{who}: norms "banked" blends two norm sets, and dual has one; give sets=2')
        return
    if banked:
        raise ValueError(f'{who}: norms {norms!r} needs one norm set, and dual has two; give sets=1, or norms="banked"')
    for norm in seats(net, Norm):
        norm.modulations.append(Tilt(norm.channels))
    if norms == "re-estimated":
        for parent, name, child in found:
            if isinstance(child, NormSet):
                setattr(parent, name, Knots(child))


def weighted(net: nn.Module) -> Iterator[Seat]:
    """Every seat whose weight lies on the segment: convolutions, then dense layers."""
    yield from seats(net, Conv)
    yield from seats(net, Dense)


def knots_of(net: nn.Module) -> list[Knots]:
    """The norm sets of a network that keep statistics along the segment."""
    return list(seats(net, Knots))


def amounts(level: Level) -> float | Tensor | None:
    """λ as a number or a scalar tensor if all rows share it; None if it varies by row."""
    if level.number is not None:
        return level.number
    return level.table[0] if level.table.shape[0] == 1 else None


def segment_terms(plan: str, batch: int, generator: torch.Generator) -> list[Term]:
    """The terms of a step: "halves" trains only the ends, "sampled" also the segment between them.

    "halves": even rows clean at λ = 0, odd rows attacked at λ = 1, as in `Dual` alone. "sampled": a third of the
    rows clean at λ = 0, a third attacked at λ = 1, and a third at one λ per step, drawn from 0.1 to 0.9, where clean
    images have weight 1-λ and attacked images λ. Each term thus has one kernel.
    """
    if plan == "halves":
        return in_two(batch)
    order = torch.randperm(batch, generator=generator)
    zeros = -(-batch // 3)
    middle = zeros + batch // 3
    level = int(torch.randint(1, KNOTS - 1, (), generator=generator)) / (KNOTS - 1)
    clean, between, robust = (order[a:b].sort().values for a, b in ((0, zeros), (zeros, middle), (middle, batch)))
    # The ends come last, so that they have the largest weight in the running statistics.
    terms = [
        Term(between, Point(robustness=level), weight=1 - level),
        Term(between, Point(robustness=level), images="adversarial", weight=level),
        Term(clean, Point(robustness=0.0)),
        Term(robust, Point(robustness=1.0), images="adversarial"),
    ]
    return [term for term in terms if len(term.rows)]


def segment_path(norms: str, plan: str, u: float) -> tuple[float, float]:
    """(λ, blend) at the position u: with banked norms and the sampled plan, sets blend below its smallest λ."""
    if norms != "banked" or plan == "halves":
        return u, u
    return (2 * u * LEAST, 2 * u) if u < 0.5 else (LEAST + (2 * u - 1) * (1 - LEAST), 1.0)
