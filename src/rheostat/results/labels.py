"""Rows as text: what a table, a plot or a terminal calls them."""

from __future__ import annotations

from rheostat.results.rows import Row


def worst_rows(rows: list[Row]) -> list[Row]:
    """The rows of worst cases over attacks: what curves and tables are made of."""
    return [r for r in rows if r["attack"]["name"] == "worst"]


def gap_lines(rows: list[Row]) -> list[str]:
    """Per point of a tier above quick: what PGD-20 alone would have said."""
    lines = []
    for first in rows:
        if first["attack"]["name"] != "pgd20" or first["cumulative"] or first["tier"] == "quick":
            continue
        same = ("run", "at", "tier", "rule")
        last = next(r for r in worst_rows(rows) if all(r[k] == first[k] for k in same))
        gap = 100 * (first["robust_accuracy"] - last["robust_accuracy"])
        lines.append(
            f"{point_label(last)}: quick {percent(first['robust_accuracy'])} → {last['tier']} "
            f"{percent(last['robust_accuracy'])} (gap {gap:.1f} points)"
        )
    return lines


def attacker_lines(rows: list[Row]) -> list[str]:
    """What attackers with other knowledge of the dial achieve: the strongest transfer, unknown, chosen."""
    lines = []
    unknown = [r for r in rows if r["knowledge"] == "unknown"]
    for row in unknown:
        crossed = [
            r
            for r in rows
            if r["knowledge"] == "transfer" and r["at"] == row["at"] and r["attack"]["made_at"] != row["at"]
        ]
        best = min(crossed, key=lambda r: r["robust_accuracy"], default=None)
        text = f"{point_label(row)}: attacker who does not know the point {percent(row['robust_accuracy'])}"
        if best is not None:
            made = point_label({**best, "at": best["attack"]["made_at"]})
            text += f", images made at {made} {percent(best['robust_accuracy'])}"
        lines.append(text)
    lines += [
        f"attacker who may choose the point: {percent(r['robust_accuracy'], r['interval']['robust'])}"
        for r in rows
        if r["knowledge"] == "chosen"
    ]
    return lines


def point_label(row: Row) -> str:
    """A short text for a row's point: λ or t first."""
    at = dict(row["at"])
    parts = []
    if "robustness" in at:
        parts.append(f"{'λ' if row.get('rule') else 't'} = {at.pop('robustness'):g}")
    parts += [f"{k} = {v:g}" for k, v in at.items()]
    return ", ".join(parts) or "the one point"


def percent(value: float, interval: list[float] | None = None) -> str:
    """62.3 or 62.3 [59.1, 65.4], in per cent."""
    text = f"{100 * value:.1f}"
    if interval is not None:
        text += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return text
