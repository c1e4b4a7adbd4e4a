"""Common corruptions as one table: one line per point, the mean over kinds at each severity, and the worst kind."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable

from rheostat.results.labels import percent, point_label
from rheostat.results.row import Row

TIER = "corruptions"
"""The tier of corruption rows, which involve no attack."""
ABOUT = (
    "The table shows standard accuracy on corrupted images: the mean over the kinds of corruption at each severity (1 "
    "to 5), and the kind that costs most at the highest severity. The images follow the definitions of Hendrycks & "
    "Dietterich (2019) and fixed seeds; nobody attacks. Brackets are exact 95 % intervals."
)


def corruption_table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]] | None:
    """(head, body) with one line for each run and point; None if no row is of a corruption."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.corruption is not None:
            key = [row.run, row.artifact, row.dataset, row.split, row.n, row.rule, row.seed, row.at]
            groups.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    if not groups:
        return None
    severities = sorted({_severity(r) for group in groups.values() for r in group})
    head = ["run", "point", "clean SA %", *(f"severity {s}" for s in severities), "worst kind", "kinds", "split", "n"]
    return head, [_line(group, severities) for group in groups.values()]


def _line(group: list[Row], severities: list[int]) -> list[str]:
    first = group[0]
    by = {s: [r.robust_accuracy for r in group if _severity(r) == s] for s in severities}
    highest = max(_severity(r) for r in group)
    worst = min((r for r in group if _severity(r) == highest), key=lambda r: r.robust_accuracy)
    return [
        first.run,
        point_label(first),
        percent(first.clean_accuracy, first.interval.clean),
        *(percent(statistics.mean(found)) if found else "–" for found in by.values()),
        f"{worst.corruption.name if worst.corruption else ''} {percent(worst.robust_accuracy, worst.interval.robust)}",
        str(len({r.corruption.name for r in group if r.corruption})),
        first.split,
        str(first.n),
    ]


def _severity(row: Row) -> int:
    return row.corruption.severity if row.corruption is not None else 0
