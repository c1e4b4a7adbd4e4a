"""What an earlier evaluation left in the file of rows: which points are finished, and checks that it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rheostat.evaluation.crossing import TRANSFER, with_check
from rheostat.results.row import Measurement, Row


def unfinished(plans: Sequence[Sequence[Measurement]], there: Mapping[str, Row], *, probes: bool) -> list[int]:
    """The indices of points that lack a row, or with `probes` what the probing checks find; `there` is by identity."""
    return [
        i
        for i, plan in enumerate(plans)
        if any(of.identity not in there for of in plan) or (probes and not probed(there.get(plan[-1].identity)))
    ]


def probed(worst: Row | None) -> bool:
    """Whether the probing checks were made of a stored worst case."""
    return worst is not None and worst.eps_curve is not None


def with_transfer_check(row: Row, before: Row | None) -> Row:
    """A new worst case with what the one that it replaces found with images of other points."""
    found = next((c for c in (before.checks if before else None) or [] if c.flag == TRANSFER), None)
    return row if found is None else with_check(row, found)
