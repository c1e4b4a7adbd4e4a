"""The section of docs/appendix that compares the published recipes with ours: paired differences if both have rows."""

from __future__ import annotations

from pathlib import Path

from markdown import cell, find, table
from plain import Row, read_bits, worst_rows

from rheostat.results.comparison import Difference
from rheostat.results.intervals import paired

NAMES = {
    ("oat", "paper"): "OAT, paper",
    ("float", "paper"): "FLOAT, paper",
    ("float", "start"): "FLOAT, ours from the public network's initial weights",
    ("float", "cycle-start"): "FLOAT, ours from those weights, one-cycle rate",
    ("floats", "paper"): "FLOATS 0.3, paper",
    ("rdi", "paper"): "RDI-Nets, paper",
}
"""(method, variant) that is compared with ours, and what a table calls it."""
SEEDS = {"0": "", "1": "-s1"}


def points(rows: list[Row], method: str, variant: str, seed: str) -> dict[str, Row]:
    """The rows of one network of `queues/variants.toml` by the name of their point."""
    run = f"variant-{method}-{variant}{SEEDS[seed]}"
    if method == "rdi":
        found = [r for r in worst_rows(rows) if (r["run"], r["tier"]) == (run, "quick")]
        return {f"exit = {r['at']['exit']:g}": r for r in sorted(found, key=lambda r: r["at"]["exit"])}
    return {f"λ = {r['at']['robustness']:g}": r for r in find(rows, run, "at-0")}


def variants(rows: list[Row], results: Path) -> str:
    """Each published recipe against ours, at equal numbers of attacked images; missing networks are named."""
    body, missing = [], []
    counts: dict[str, list[int]] = {name: [0] * 5 for name in NAMES.values()}
    for (method, variant), name in NAMES.items():
        for seed in SEEDS:
            pair = (variant, "cycle" if variant.startswith("cycle") else "ours")
            other, ours = (points(rows, method, v, seed) for v in pair)
            shared = [p for p in ours if p in other and other[p]["n"] == ours[p]["n"]]
            if not shared:
                missing.append(f"{name} (seed {seed})")
            for point in shared:
                a, b = read_bits(results, other[point]), read_bits(results, ours[point])
                found = [Difference(*paired(a[kind], b[kind])) for kind in (0, 1)]
                gaps = [gap.text() for gap in found]
                verdicts = [gap.verdict for gap in found]
                hits = [v == word for v in verdicts for word in ("better", "worse")]
                counts[name] = [c + int(hit) for c, hit in zip(counts[name], [True, *hits], strict=True)]
                n = str(ours[point]["n"])
                body.append([name, seed, point, n, *cell(ours[point]), *cell(other[point]), *gaps])
    gaps_head = ["SA, variant minus ours", "RA, variant minus ours"]
    head = ["variant", "seed", "point", "n", "SA, ours", "RA, ours", "SA", "RA", *gaps_head]
    return (
        "## The published recipes beside ours\n\n`benchmarks/queues/variants.toml` trains both variants on 10 000 "
        "images of Fashion-MNIST for 6 epochs, with equal numbers of attacked images. RA is measured under PGD-20 on n "
        'test images with the rule "at-0", for exits under every form of attack; differences are paired on the same '
        'images. `variant="paper"` is the '
        "published recipe as far as it is known; the docstring of each method lists the settings of both.\n\n"
        + (table(head, body) if body else "")
        + (_summary(counts) if body else "")
        + (f"\nNot yet run: {', '.join(missing)}.\n" if missing else "")
    )


def _summary(counts: dict[str, list[int]]) -> str:
    """At how many points, over both seeds, a variant differs significantly from ours."""
    head = ["variant", "points", "SA better than ours", "SA worse", "RA better", "RA worse"]
    lines = [[name, *map(str, found)] for name, found in counts.items() if found[0]]
    return "\nThe number of points at which the paired interval excludes 0:\n\n" + table(head, lines)
