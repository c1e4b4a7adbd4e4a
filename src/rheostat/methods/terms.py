"""Terms: what a training step is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rheostat.points.point import Point


@dataclass(frozen=True)
class Term:
    """One group of rows of a training step: which rows, at which point, on which images.

    `rows` is a long index into the global batch. The loss of the step is the sum over terms of
    Σ weight·loss / B_global; a term is its own normalisation group. `weight` is a number or one per
    row of the term. `objective` names what the attack of an adversarial term maximises. An attack is made
    before any pass of the step, so against the running statistics of its start; with `late` after the terms
    before it have passed and moved them. `given` holds values that the pass takes in place of those that
    methods derive from the point, one value a type (see `Resolved.with_`).
    """

    rows: Tensor
    at: Point = field(default_factory=Point)
    images: str = "clean"
    objective: str = "direct"
    weight: float | Tensor = 1.0
    late: bool = False
    given: tuple[object, ...] = ()

    def within(self, first: int, last: int) -> Tensor:
        """(n,) which of this term's rows lie in [first, last)."""
        return (self.rows >= first) & (self.rows < last)

    def local(self, first: int, last: int) -> Term:
        """The part of this term in rows [first, last), renumbered from 0 (one rank's share)."""
        local = self.within(first, last)
        weight = self.weight[local] if isinstance(self.weight, Tensor) else self.weight
        return replace(self, rows=self.rows[local] - first, at=self.at.only(local), weight=weight)


def everything(batch: int) -> list[Term]:
    """The plan of a stack in which no method has one: every row, clean, at the rest point."""
    return [Term(torch.arange(batch))]
