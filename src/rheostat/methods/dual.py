"""Dual normalisation: one set of statistics for clean rows, one for adversarial ones.

Also called dual BN, split BN, AdvProp's auxiliary BN. It is not domain adaptation: a row's λ alone selects its
set, never the content of the image or its position in the batch. Source: OAT (Wang et al., NeurIPS 2020, §3.2);
blending between the sets is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rheostat.methods.base import Method, Term
from rheostat.methods.composition import register
from rheostat.methods.terms import in_two
from rheostat.nets.base import Net
from rheostat.nn.layers import seats
from rheostat.nn.norms import AffineSet, Norm, NormChoice, Source
from rheostat.points.dial import Dial
from rheostat.points.phase import Phase
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

THRESHOLDS = {"at-0.1": 0.1, "at-0.5": 0.5, "at-0.6": 0.6}
BETWEEN = ("at-0", *THRESHOLDS, "blend")


class Pair(Source):
    """Two norm sets: eval blends their affine maps by `blend`; a training term uses one of them."""

    def __init__(self, clean: AffineSet, adversarial: AffineSet) -> None:
        super().__init__()
        self.clean, self.adversarial = clean, adversarial

    def resized(self, channels: int) -> Pair:
        return Pair(self.clean.resized(channels), self.adversarial.resized(channels))

    def pick(self, at: Resolved) -> AffineSet:
        return self.adversarial if at.of(NormChoice).adversarial else self.clean

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        if at.get(NormChoice) is not None:
            return self.pick(at).table(at)
        assert at.blend is not None
        (scale_c, shift_c), (scale_a, shift_a) = self.clean.table(at), self.adversarial.table(at)
        blend = at.blend[:, None]
        return torch.lerp(scale_c, scale_a, blend), torch.lerp(shift_c, shift_a, blend)


@register
@dataclass(frozen=True)
class Dual(Method):
    """Declares the dial `robustness` (λ) and owns the norm bank.

    `sets` is 2, or 1 for the ablation without a bank. `between` selects the set for 0 < λ < 1 in eval: "at-0" the
    adversarial set above 0 (OAT), "at-0.1" from 0.1 on (FLOAT's public code), "at-0.5" from 0.5 on, "at-0.6" from
    0.6 on (that code's two-sided rule), "blend" a mixture of both affine maps (ours, the default). Training always
    uses the adversarial set above 0. Unless another method has a plan of its own, `attacked` is the fraction of the
    (shuffled) batch that trains adversarially at λ = 1, rounded down to rows; the other rows train clean at λ = 0. A
    batch of two rows or more has at least one of each. Attacked rows are spread evenly over the batch, and so over
    ranks; at 1/2 (OAT's and FLOAT's code) they are the odd rows.
    """

    sets: int = 2
    between: str = "blend"
    attacked: float = 0.5

    seam = 10
    claims = "norm bank"
    gives_way = True
    for_plan = ("attacked",)

    def __post_init__(self) -> None:
        if self.sets not in (1, 2):
            raise ValueError(f"dual: sets must be 1 or 2, given {self.sets}")
        check_choice("dual", "between", self.between, BETWEEN)
        if not 0 < self.attacked < 1:
            raise ValueError(f"dual: attacked must be above 0 and below 1, given {self.attacked:g}")

    def dials(self) -> tuple[Dial, ...]:
        return (Dial(name="robustness", rest=0.0),)

    def install(self, net: Net) -> None:
        if self.sets == 1:
            return
        norms = list(seats(net, Norm))
        if not norms:
            raise ValueError("dual needs a network with norms; this one has none")
        for norm in norms:
            assert isinstance(norm.source, AffineSet)
            norm.source = Pair(norm.source, norm.source.copy())

    def derive(self, net: Net, at: Resolved) -> Resolved:
        if self.sets == 1:
            return at
        level = at.robustness.table
        if at.phase is not Phase.EVAL:
            robust = level > 0
            if bool(robust.any()) != bool(robust.all()):
                raise ValueError("dual: a training term mixes rows with λ = 0 and λ > 0")
            return at.with_(NormChoice(adversarial=bool(robust.any())))
        if at.blend is None:
            if self.between == "blend":
                blend = level
            else:
                robust = level > 0 if self.between == "at-0" else level >= THRESHOLDS[self.between]
                blend = robust.to(level.dtype)
            at = replace(at, blend=blend)
        return at

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        return in_two(batch, self.attacked)
