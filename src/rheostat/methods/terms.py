"""Terms: the parts of a training step's loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rheostat.points.point import Point


@dataclass(frozen=True)
class Term:
    """One group of rows of a training step: which rows, at which point, on which images.

    `rows` is a long index into the global batch. The loss of the step is the sum over terms of
    Σ weight·loss / B_global; each term is normalised by its own batch statistics. `weight` is a number, or one number
    per row of the term. `objective` names the objective that an adversarial term's attack maximises. Attacks normally
    run before all passes of the step, with the running statistics of its start; with `late` an attack runs after the
    preceding terms have updated those statistics. `given` holds values that replace those that methods derive from
    the point, one value per type (see `Resolved.with_`).
    """

    rows: Tensor
    at: Point = field(default_factory=Point)
    images: str = "clean"
    objective: str = "direct"
    weight: float | Tensor = 1.0
    late: bool = False
    given: tuple[object, ...] = ()

    def within(self, first: int, last: int) -> Tensor:
        """(n,) mask of this term's rows in [first, last)."""
        return (self.rows >= first) & (self.rows < last)

    def local(self, first: int, last: int) -> Term:
        """This term's part in rows [first, last), renumbered from 0: the share of one rank.

        A part without rows stands at the point of the term's first row, so that its rank selects the same norms and
        paths as the ranks that hold the rows, whose statistics it sums with theirs.
        """
        local = self.within(first, last)
        weight = self.weight[local] if isinstance(self.weight, Tensor) else self.weight
        at = self.at.only(local)
        if len(self.rows) and not local.any():
            at = Point(**{name: v[0] if isinstance(v, Tensor) else v for name, v in self.at.items()})
        return replace(self, rows=self.rows[local] - first, at=at, weight=weight)


def in_two(batch: int, attacked: float = 0.5) -> list[Term]:
    """The plan of a step that trains both ends alone: clean rows at λ = 0, attacked rows at λ = 1.

    `attacked` is the fraction of the attacked rows, rounded down; two rows or more have one of each. Attacked rows are
    spread evenly, and so over ranks; at 1/2 they are the odd rows.
    """
    # Row i is attacked if the number of attacked rows up to it, rounded down, rises at it.
    number = (torch.arange(batch + 1, dtype=torch.float64) * attacked + 1e-9).floor()
    chosen = number.diff() > 0
    if batch > 1 and not chosen.any():
        chosen[-1] = True
    if batch > 1 and chosen.all():
        chosen[0] = False
    terms = [
        Term((~chosen).nonzero()[:, 0], Point(robustness=0.0)),
        Term(chosen.nonzero()[:, 0], Point(robustness=1.0), images="adversarial"),
    ]
    return [term for term in terms if len(term.rows)]


def everything(batch: int) -> list[Term]:
    """The default plan, if no method of a stack has one: every row, clean, at the rest point."""
    return [Term(torch.arange(batch))]
