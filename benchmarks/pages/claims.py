"""The claims of the four papers, at every scale that we run, and our own bars: met, not met, not yet run."""

from __future__ import annotations

from pathlib import Path

import masks
import multi_exit
from dedicated import against_dedicated
from groups import GROUPS, Group, curves
from markdown import signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired

Lines = list[list[str]]
"""Claim, measured, verdict."""
NOT_RUN = ["", "not yet run"]
SCALES: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "Fashion-MNIST, seed 0": ("oat-fashion", "pgd-at-{}", (0.0, 0.2, 1.0)),
    "CIFAR-10 subset, seed 0": ("c10-oat", "c10-pgd-at-{}", (0.0, 0.2, 1.0)),
    "CIFAR-10 subset, seed 1": ("c10-oat-s1", "c10-pgd-at-{}-s1", (0.0, 0.2, 1.0)),
    "the paper's: CIFAR-10, ResNet-34": ("paper-oat", "paper-pgd-at-{}", (0.0, 0.2, 1.0)),
    "the paper's: SVHN, WRN-16-8": ("paper-oat-svhn", "paper-pgd-at-{}-svhn", (0.0, 1.0)),
}
"""Comparisons of OAT with networks trained for one λ: its run, their runs, and the values of λ."""
PAPERS_GROUPS = (
    Group(
        "the paper's: CIFAR-10, ResNet-34",
        {"oat": "paper-oat", "float": "paper-float", "smart": "paper-smart"},
        {},
        "paper-pgd-at-{}",
    ),
    Group(
        "the paper's: SVHN, WRN-16-8",
        {"oat": "paper-oat-svhn", "float": "paper-float-svhn"},
        {},
        "paper-pgd-at-{}-svhn",
    ),
)
EXITS = {
    "MNIST, SmallCNN": ("rdi-mnist", "static-mnist"),
    "Fashion-MNIST, ResNet-20": ("rdi-fashion", "static-fashion"),
    "CIFAR-10 subset, ResNet-20 of width 8": ("c10-rdi", "c10-static"),
    "the paper's: MNIST, SmallCNN": ("paper-rdi-mnist", "paper-static-mnist"),
    "the paper's: CIFAR-10, ResNet-38": ("paper-rdi", "paper-static"),
    "the paper's: CIFAR-10, MobileNetV2": ("paper-rdi-mobilenet", "paper-static-mobilenet"),
}


def bar(row: Row) -> tuple[str, str]:
    """A timing row's bar and whether its median meets it; both empty where it has none."""
    value = row["ratio"]["median"]
    if row.get("bar"):
        return f"≤ {row['bar']}", "met" if value <= row["bar"] else "not met"
    if row.get("bar_at_least"):
        return f"≥ {row['bar_at_least']}", "met" if value >= row["bar_at_least"] else "not met"
    return "", ""


def timed(claim: str, row: Row) -> list[str]:
    """The line of a timing row that has a bar."""
    limit, holds = bar(row)
    return [f"{claim}, {limit}", f"{row['ratio']['median']:.3f}", holds]


def oat(rows: list[Row], results: Path) -> Lines:
    """OAT at λ against networks trained at that λ."""
    lines = []
    for place, (run, dedicated, levels) in SCALES.items():
        text, met = against_dedicated(rows, results, run, dedicated=dedicated, levels=levels)
        cells = [line.split(" | ") for line in text.splitlines()[2:]]
        gaps = [" / ".join(c.split(" ")[0] for c in line[6:8]) for line in cells]
        claim = f"mean of SA and RA at most 1.5 points below networks trained for one λ, no point dominated ({place})"
        lines.append(
            [claim, *NOT_RUN]
            if met is None
            else [
                claim,
                f"SA / RA minus theirs: {', '.join(gaps)} at λ = {', '.join(f'{v:g}' for v in levels)}",
                "met" if met else "not met",
            ]
        )
    return lines


def ends(rows: list[Row], results: Path, run: str, other: str) -> tuple[str, bool] | None:
    """SA at t = 0 and RA at t = 1 of a run minus another's, paired; whether one is higher and neither lower."""
    mine, theirs = curves(rows, run), curves(rows, other)
    shared = set(mine) & set(theirs)
    if not shared:
        return None
    a, b = mine[max(shared)], theirs[max(shared)]
    clean = paired(read_bits(results, a[0])[0], read_bits(results, b[0])[0])
    robust = paired(read_bits(results, a[-1])[1], read_bits(results, b[-1])[1])
    holds = max(clean[1], robust[1]) > 0 and min(clean[2], robust[2]) >= 0
    return f"SA(0) {signed(*clean)}, RA(1) {signed(*robust)}", holds


def float_(rows: list[Row], results: Path, speed: list[Row], costs: list[Row]) -> Lines:
    """FLOAT: training time, parameters, latency, and accuracy above OAT's."""
    lines = []
    for r in speed:
        if r["name"].endswith(": step time"):
            what = "OAT's step ÷ FLOAT's" if r["a"] == "oat" else "FLOAT's step ÷ adversarial training's"
            lines.append(timed(f"{what} ({r['name'].partition(':')[0]})", r))
    values = {r["of"]: r["value"] for r in costs if "value" in r}
    for name, count in values.items():
        if name.startswith("oat"):
            share = count / values["float"]
            lines.append(
                [
                    f"1.47× fewer parameters than OAT (ResNet-34; {name})",
                    f"{share:.2f}×",
                    "met" if share >= 1.47 else "not met",
                ]
            )
    lines += [
        timed(f"no latency added: {r['name']}, batch {r['batch']}", r)
        for r in costs
        if r.get("bar") and "FLOAT" in r["name"]
    ]
    for group in (*GROUPS, *PAPERS_GROUPS):
        oat_ = group.runs["oat"]
        for run, other, how in (
            (group.runs["float"], oat_, "equal epochs"),
            (group.twice.get("float"), oat_, "equal attacked images"),
            (group.twice.get("float"), group.twice.get("oat"), "equal attacked images and updates"),
        ):
            found = ends(rows, results, run, other) if run and other else None
            if found is None and how != "equal epochs":
                continue
            claim = f"SA or RA above OAT's and neither below, {how} ({group.name})"
            lines.append([claim, *(NOT_RUN if found is None else (found[0], "met" if found[1] else "not met"))])
    return lines


def smart(rows: list[Row]) -> tuple[str, Lines]:
    """SMART: fewer non-zeros at OAT's trade-off."""
    groups = {
        g.name: (g.runs["smart"], g.runs["oat"], g.at("1")) for g in (*GROUPS, *PAPERS_GROUPS) if "smart" in g.runs
    }
    text, found = masks.smart(rows, groups)
    return text, [
        [
            f"≥ 2.72× fewer non-zeros per path, both ends within 1.5 points of OAT's ({name})",
            *(found.get(name) or NOT_RUN),
        ]
        for name in groups
    ]


def exits(rows: list[Row], results: Path) -> tuple[str, Lines]:
    """RDI-Nets: compute saved, accuracy and robustness lower by at most the margin of non-inferiority."""
    text, found = multi_exit.against_static(rows, results, EXITS)
    return text, [
        [
            f"≥ 30 % of MACs saved on clean images, SA and RA at most {100 * multi_exit.MARGIN:g} points lower "
            f"(bound of the interval) ({name})",
            *(found.get(name) or NOT_RUN),
        ]
        for name in EXITS
    ]


def beaten(lines: Lines) -> Lines:
    """Comparisons as claims: met if the paired interval of the difference lies above 0."""
    return [[claim, said, "met" if verdict == "better" else f"not met: {verdict}"] for claim, said, verdict in lines]


def page(sections: dict[str, Lines]) -> str:
    """All claims: how many are met, and a table per section."""
    every = [line[2].partition(":")[0] for lines in sections.values() for line in lines]
    counts = ", ".join(f"{every.count(v)} {v}" for v in dict.fromkeys(every))
    text = f"## Claims and bars\n\nThere are {len(every)} claims and bars: {counts}.\n"
    for name, lines in sections.items():
        text += f"\n### {name}\n\n" + table(["claim", "measured", "verdict"], lines)
    return text
