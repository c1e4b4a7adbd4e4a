"""What the sections of docs/results.md share: finding rows, cells, Markdown tables."""

from __future__ import annotations

from rheostat.labels import percent, worst_rows
from rheostat.rows import Row


def find(rows: list[Row], run: str, rule: str | None, *, tier: str = "quick") -> list[Row]:
    """Worst-case rows of a run by a tier, under a rule between norm sets, along the dial."""
    found = [r for r in worst_rows(rows) if (r["run"], r["rule"], r["tier"]) == (run, rule, tier)]
    return sorted(found, key=lambda r: r["at"].get("robustness", 0.0))


def dial(rows: list[Row], run: str) -> list[Row]:
    """A run along its calibrated dial, at no other dial's position than rest."""
    return [r for r in find(rows, run, None) if "robustness" in r["at"]]


def per_cent(value: float) -> str:
    """62.3."""
    return percent(value)


def table(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in body]) + "\n"


def cell(row: Row) -> list[str]:
    """SA and RA with their intervals."""
    return [
        percent(row["clean_accuracy"], row["interval"]["clean"]),
        percent(row["robust_accuracy"], row["interval"]["robust"]),
    ]
