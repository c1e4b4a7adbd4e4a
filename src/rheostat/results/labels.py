"""Rows as text for tables, plots and terminals."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.results.curves import same_attacks, same_ball, same_setting, stated
from rheostat.results.row import At, Row


def worst_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of worst cases over attacks, which curves and tables show."""
    return [r for r in rows if r.attack.name == "worst"]


def gap_lines(rows: list[Row]) -> list[str]:
    """For each point of a tier above quick: how PGD-20 alone compares with the whole tier."""
    lines = []
    for first in rows:
        if first.attack.name != "pgd20" or first.cumulative or first.tier == "quick":
            continue
        holding = worst_cases(first, rows)
        if not holding:
            continue
        last = holding[0]
        gap = 100 * (first.robust_accuracy - last.robust_accuracy)
        lines.append(
            f"{point_label(last)}: quick {percent(first.robust_accuracy)} → {last.tier} "
            f"{percent(last.robust_accuracy)} (gap {gap:.1f} points)"
        )
    return lines


def worst_cases(first: Row, rows: Sequence[Row]) -> list[Row]:
    """The worst cases that cover the attack of a row at its point, with no other settings of it.

    If the attack had settings of its own, those that state them leave out those that state none.
    """
    name, own = first.attack.name, first.attack.plain()
    holding = [
        r
        for r in worst_rows(rows)
        if r.at == first.at
        and same_setting(r, first)
        and same_ball(r, first)
        and name in r.attack.names
        and stated(r, name).items() <= own.items()
    ]
    most = max((len(stated(r, name)) for r in holding), default=0)
    return [r for r in holding if len(stated(r, name)) == most]


def attacker_lines(rows: list[Row]) -> list[str]:
    """Results for attackers with different knowledge of the dial: the strongest transfer, unknown, chosen."""
    lines = []
    for row in rows:
        if row.knowledge != "unknown":
            continue
        crossed = [
            r
            for r in rows
            if r.knowledge == "transfer"
            and same_setting(r, row)
            and same_ball(r, row)
            and same_attacks(r, row)
            and r.at == row.at
            and r.attack.made_at != row.at
        ]
        best = min(crossed, key=lambda r: r.robust_accuracy, default=None)
        text = f"{point_label(row)}: RA {percent(row.robust_accuracy)} against an attacker who does not know the point"
        if best is not None:
            made = point_label(best, best.attack.made_at)
            text += f"; {percent(best.robust_accuracy)} on images made at {made}"
        lines.append(text)
    lines += [
        f"RA {percent(r.robust_accuracy, r.interval.robust)} against an attacker who may choose the point"
        for r in rows
        if r.knowledge == "chosen"
    ]
    return lines


def point_label(row: Row, at: At | None = None) -> str:
    """A short text for a row's point, or for the point `at` of the same dials; λ or t comes first.

    It ends with the precision of a row that was not judged in fp32.
    """
    left = dict(row.at if at is None else at)
    parts = []
    if "robustness" in left:
        parts.append(f"{'λ' if row.dial == 'lambda' else 't'} = {left.pop('robustness'):g}")
    parts += [f"{k} = {v:g}" for k, v in left.items()]
    if at is None and row.precision != "fp32":
        parts.append(row.precision)
    return ", ".join(parts) or "the one point"


def attacks_label(row: Row) -> str:
    """The attacks of a row, and the precision of their gradients if it is not fp32."""
    return ", ".join(row.attack.names) + ("" if row.attack_precision == "fp32" else f" in {row.attack_precision}")


def eps_label(eps: float) -> str:
    """A radius as people write it: 0.1, 0.15, 8/255."""
    levels = round(255 * eps)
    in_levels = eps != round(eps, 3) and abs(255 * eps - levels) < 1e-6
    return f"{levels}/255" if in_levels else f"{eps:.4g}"


def percent(value: float, interval: Sequence[float] | None = None) -> str:
    """62.3 or 62.3 [59.1, 65.4], in per cent."""
    text = f"{100 * value:.1f}"
    if interval is not None:
        text += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return text
