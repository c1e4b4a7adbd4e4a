"""The section of docs/appendix on Square's budget: RA under Square alone and after white-box attacks."""

from __future__ import annotations

from pathlib import Path

from markdown import per_cent, signed, table
from plain import Row, read_bits, worst_rows

from rheostat.results.intervals import paired

REFERENCE = "square"
"""The attack of `standard` in version 1 of the tiers: 1 000 queries, the beginning of the schedule."""


def budget(rows: list[Row], results: Path) -> str:
    """A line for each network and budget: RA under Square alone, RA under both, gain over version 1, seconds."""
    found = worst_rows(rows)
    body = []
    for run in dict.fromkeys(r["run"] for r in found):
        here = [r for r in found if r["run"] == run]
        white = next(r for r in here if len(r["attack"]["of"]) > 1)
        squares = {r["attack"]["of"][0]: r for r in here if len(r["attack"]["of"]) == 1}
        left = read_bits(results, white)[1]
        after = {name: left & read_bits(results, row)[1] for name, row in squares.items()}
        for name, row in squares.items():
            less = "" if name == REFERENCE else signed(*paired(after[REFERENCE], after[name]))
            share = float(after[name].double().mean())
            cells = [run, per_cent(white["robust_accuracy"]), name, per_cent(row["robust_accuracy"]), per_cent(share)]
            body.append([*cells, less, f"{row['seconds']:.0f}", str(row["n"])])
    if not body:
        return ""
    head = [
        "network",
        "RA, white-box",
        "Square",
        "RA, Square alone",
        "RA, worst of both",
        f"further images fooled than with `{REFERENCE}`, points",
        "seconds",
        "n",
    ]
    text = (
        "## How many queries Square needs (`python benchmarks/measure/square_budget.py`)\n\nThe networks were trained "
        "with one-step attacks. Each is also measured behind a layer that rounds pixels to 8 values; there gradients "
        "are 0, and white-box attacks find almost nothing. The white-box attacks are PGD-20, FGSM, MI-FGSM, APGD-CE "
        "and APGD-T.\n\nThe squares of Square shrink along a schedule for 10 000 queries. `squareN` runs the beginning "
        "of the schedule, and `squareN-rescaled` the whole schedule in N queries. `standard` runs "
        f"`square2000-rescaled`; in version 1 of the tiers it ran `{REFERENCE}`, with 1 000 queries. Seconds were "
        "measured on a machine shared with other work.\n\n"
    )
    return text + table(head, body)
