"""Weights on a straight line: W(λ) = (1-λ)·W₀ + λ·W₁ in every convolution and dense layer, both ends trained.

Also called a linear subspace of networks, or a Pareto manifold. It is not an average of two separately trained
networks, between which the loss has a barrier. If all rows of a batch have one λ, the model is one network and folds.
A product of two interpolated layers is not an interpolation of products, so no cheaper form is exact. Source: PaMaL
(Dimitriadis et al., ICML 2023; code nik-dim/pamal), which interpolates between tasks; using standard and robust
training as the two ends is ours. Both ends share the biases of dense layers and convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.methods import segment
from rheostat.methods.base import Method, Term
from rheostat.methods.composition import METHODS, compose_as, register
from rheostat.nets.base import Net
from rheostat.nn.layers import Parts, Seat, Transform, append, weighted
from rheostat.nn.masking import Masking
from rheostat.points.resolved import Resolved


class Ends(Transform):
    """The robust end of a seat's weight, frozen if the weight is.

    A batch with several λ takes two products: W₀ and λ·(W₁ - W₀).
    """

    order = 5

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.other = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        (weight, _), *rest = parts
        level = segment.amounts(at.robustness)
        if level is None:
            return ((weight, None), (self.other - weight, at.robustness.table), *rest)
        if isinstance(level, float) and level in (0.0, 1.0):
            return ((self.other, None), *rest) if level else parts
        return ((torch.lerp(weight, self.other, level), None), *rest)


@register
@dataclass(frozen=True)
class Line(Method):
    """Reads `robustness`; gives every convolution and dense layer a second end, initially equal to the first.

    `norms` is "banked" (the two sets of `Dual`, blended), "affine" (affine parts on the segment, one set of
    statistics) or "re-estimated" (as "affine", with statistics estimated along λ after training); the last two
    need `Dual` with sets=1, and the composition "line" has "re-estimated" by default. `terms` is "halves" (training
    uses the ends only) or "sampled" (every step also trains at a λ between them).
    """

    norms: str = "banked"
    terms: str = "sampled"

    seam = 45
    claims = "weight segment"
    reads = ("robustness",)

    def __post_init__(self) -> None:
        segment.check_segment(self.name, self.norms, self.terms)

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        segment.install_norms(net, self.name, self.norms)
        for seat in segment.weighted(net):
            append(seat, Ends(seat.weight))

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        return segment.segment_terms(self.terms, batch, generator)

    def path(self, u: float) -> tuple[float, float]:
        return segment.segment_path(self.norms, self.terms, u)

    @torch.no_grad()
    def after_step(self, net: Net, progress: float) -> None:
        """Apply the masks to both ends, so that a weight that regrows starts at 0 at both."""
        for knots in segment.knots_of(net):
            knots.straighten()
        for seat in weighted(net):
            masks = [t.union() for t in seat.transforms if isinstance(t, Masking)]
            for ends in (t for t in seat.transforms if isinstance(t, Ends)):
                for mask in masks:
                    ends.other.mul_(mask)


# One set of norms with statistics estimated along the line: on both data sets of docs/appendix/methods.md, "The
# verdict", its dial covers a larger area than with two sets of norms, blended, where the middle loses accuracy.
compose_as(
    "line",
    "Weights on a straight line between a standard and a robust end (after PaMaL, ICML 2023), norms re-estimated.",
    METHODS.get("Dual"),
    Line,
    sets=1,
    norms="re-estimated",
)
