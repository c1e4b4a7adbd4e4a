"""What an earlier evaluation left in the file of rows: which points are finished, and checks that are not repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rheostat.evaluation.checks import PROBE_FLAGS
from rheostat.results.row import Measurement, Row


def unfinished(plans: Sequence[Sequence[Measurement]], there: Mapping[str, Row], *, probes: bool) -> list[int]:
    """The indices of points that lack a row, or with `probes` what the probing checks find; `there` is by identity."""
    lacking = [i for i, plan in enumerate(plans) if any(m.identity not in there for m in plan)]
    if not probes:
        return lacking
    worst = {i: there.get(plan[-1].identity) for i, plan in enumerate(plans)}
    return [i for i, row in worst.items() if i in lacking or row is None or row.eps_curve is None]


def with_earlier_checks(row: Row, before: Row | None, *, probed: bool, transferred: bool) -> Row:
    """A new row with what the row that it replaces found in checks that were not made again."""
    if before is None:
        return row
    kept = (frozenset() if probed else PROBE_FLAGS) | frozenset(() if transferred else ("transfer-beats-known",))
    found: dict[str, object] = {"flags": sorted({*row.flags, *kept.intersection(before.flags)})}
    if row.checks is not None:
        found["checks"] = [*row.checks, *(check for check in before.checks or [] if check.flag in kept)]
    if not probed:
        found |= {"eps_curve": before.eps_curve, "loss_curve": before.loss_curve}
    return row.model_copy(update=found)
