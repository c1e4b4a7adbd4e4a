"""Adversarial training at one fixed λ: the baseline that a tunable model must match at every λ.

Also called PGD-AT (λ = 1) and standard training (λ = 0). It has no dial. Sources: Madry et al. 2018;
for λ between 0 and 1, the dedicated models of OAT (Wang et al. 2020, §4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rheostat.methods.base import Method, Term
from rheostat.methods.composition import register
from rheostat.nets.base import Net


@register
@dataclass(frozen=True)
class Dedicated(Method):
    """Loss (1-λ)·clean + λ·adversarial over all rows, one norm set; `robustness` is λ."""

    robustness: float = 1.0

    seam = 10
    claims = "norm bank"

    def __post_init__(self) -> None:
        if not 0 <= self.robustness <= 1:
            raise ValueError(f"dedicated: robustness must be in [0, 1], given {self.robustness:g}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        return

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        rows = torch.arange(batch)
        terms = [Term(rows, weight=1 - self.robustness), Term(rows, images="adversarial", weight=self.robustness)]
        return [term for term in terms if term.weight]
