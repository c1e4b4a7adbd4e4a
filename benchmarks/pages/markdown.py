"""Functions that the generated pages share: finding rows, cells, Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plain import Row, worst_rows

from rheostat.results.comparison import Difference
from rheostat.results.labels import percent


def find(rows: list[Row], run: str, rule: str | None, *, tier: str = "quick") -> list[Row]:
    """Worst-case rows of a run along the dial, under a tier and a rule between norm sets."""
    found = [r for r in worst_rows(rows) if (r["run"], r["rule"], r["tier"]) == (run, rule, tier)]
    return sorted(found, key=lambda r: r["at"].get("robustness", 0.0))


def dial(rows: list[Row], run: str) -> list[Row]:
    """The rows of a run along its calibrated dial, on the largest number of images."""
    found = [r for r in find(rows, run, None) if "robustness" in r["at"]]
    most = max((r["n"] for r in found), default=0)
    return [r for r in found if r["n"] == most]


def per_cent(value: float) -> str:
    """62.3."""
    return percent(value)


def table(head: Sequence[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in body]) + "\n"


def cell(row: Row) -> list[str]:
    """SA and RA with their intervals."""
    return [
        percent(row["clean_accuracy"], row["interval"]["clean"]),
        percent(row["robust_accuracy"], row["interval"]["robust"]),
    ]


def signed(*values: float, scale: float = 100, digits: int = 1) -> str:
    """A difference with its interval, signed: +2.5 [+1.5, +3.4]."""
    return Difference(*values).text(scale, digits)


def contents(parts: list[str]) -> str:
    """Links to the sections of a page, anchored as GitHub does."""
    titles = [line[3:] for part in parts for line in part.splitlines() if line.startswith("## ")]
    return "\n".join(f"- [{re.sub('`', '', t)}](#{anchor(t)})" for t in titles) + "\n"


def anchor(title: str) -> str:
    """A heading's anchor: lower case, punctuation dropped, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
