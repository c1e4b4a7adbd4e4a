"""Sections of docs/appendix that compare a dial with networks trained for one λ, and curves along a dial."""

from __future__ import annotations

import itertools
from pathlib import Path

from markdown import cell, dial, find, signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired, reversals

LEVELS = (0.0, 0.2, 1.0)


def against_dedicated(
    rows: list[Row], results: Path, run: str, *, dedicated: str = "pgd-at-{}", levels: tuple[float, ...] = LEVELS
) -> tuple[str, bool | None]:
    """The comparison at each λ with "at-0": the mean of SA and RA, and domination by paired intervals.

    `dedicated` is the pattern of the names of runs with one λ. The verdict is None if a row is missing.
    """
    body, met = [], True
    for level in levels:
        theirs = next(iter(find(rows, dedicated.format(f"{level:g}"), None)), None)
        found = [r for r in find(rows, run, "at-0") if r["at"]["robustness"] == level]
        ours = next((r for r in found if theirs is not None and r["n"] == theirs["n"]), None)
        if ours is None or theirs is None:
            return "", None
        mean = [(r["clean_accuracy"] + r["robust_accuracy"]) / 2 for r in (ours, theirs)]
        a, b = read_bits(results, ours), read_bits(results, theirs)
        clean, robust = paired(a[0], b[0]), paired(a[1], b[1])
        dominated = (clean[2] < 0 and robust[1] <= 0 and robust[0] <= 0) or (
            robust[2] < 0 and clean[1] <= 0 and clean[0] <= 0
        )
        holds = mean[0] >= mean[1] - 0.015 and not dominated
        met &= holds
        body.append(
            [
                f"{level:g}",
                *cell(ours),
                *cell(theirs),
                f"{100 * (mean[0] - mean[1]):+.1f}",
                signed(*clean),
                signed(*robust),
                "met" if holds else "not met",
            ]
        )
    head = [
        "λ",
        f"{run} SA",
        f"{run} RA",
        "dedicated SA",
        "dedicated RA",
        "(SA + RA) / 2, difference",
        "SA difference, paired",
        "RA difference, paired",
        "bar",
    ]
    return table(head, body), met


def along(rows: list[Row], results: Path, run: str, rule: str | None) -> str:
    """One line per point, and whether the curve is monotone."""
    found = find(rows, run, rule) if rule else dial(rows, run)
    body = [[f"{r['at']['robustness']:g}", *cell(r)] for r in found]
    bits = [read_bits(results, r) for r in found]
    # SA must fall: a reversal of the negated curve is a rise.
    rises = reversals([~c for c, _ in bits])
    falls = reversals([r for _, r in bits])
    jumps = [
        (b["robust_accuracy"] - a["robust_accuracy"]) / (b["at"]["robustness"] - a["at"]["robustness"])
        for a, b in itertools.pairwise(found)
    ]
    text = table(["λ" if rule else "t", "SA", "RA"], body)
    name = "λ" if rule else "t"

    def after(places: list[int]) -> str:
        return f"{name} = " + ", ".join(f"{found[i]['at']['robustness']:g}" for i in places)

    text += f"\nSA falls along the dial: {'yes' if not rises else 'no, it rises after ' + after(rises)}. "
    text += f"RA rises: {'yes' if not falls else 'no, it falls after ' + after(falls)}. "
    text += "(A reversal between neighbouring points counts if its paired 95 % interval excludes 0.)"
    if rule is None:
        text += f" The largest jump of RA is {10 * max(jumps):.1f} points per 0.1 of the dial."
    return text + "\n"
