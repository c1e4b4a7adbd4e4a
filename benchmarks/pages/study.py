"""Sections of docs/appendix on the study: dials against plain alternatives, CIFAR-10, stronger attacks."""

from __future__ import annotations

from pathlib import Path

from groups import GROUPS, METHODS, TWICE, Group, curve, curves, dedicated, reference, steps
from markdown import cell, find, per_cent, table
from plain import Row, read_bits, worst_rows

from rheostat.results.areas import compared
from rheostat.results.comparison import Difference


class Areas:
    """Areas under the dials of a group, compared on the same images; each pair is drawn once."""

    def __init__(self, rows: list[Row], results: Path, group: Group) -> None:
        self.rows, self.results = rows, results
        self.reference = reference(rows, group)

    def gap(self, run: str, other: str, *, ends: bool = False) -> tuple[str, str, int] | None:
        """(text, verdict, n) of a run minus another, on the largest number of images of both; None if they share none.

        With `ends`, only the two ends of the other count.
        """
        mine, theirs = curves(self.rows, run), curves(self.rows, other)
        shared = set(mine) & set(theirs)
        if not shared or self.reference is None:
            return None
        n = max(shared)
        a, b = ([read_bits(self.results, r) for r in line[n]] for line in (mine, theirs))
        gap = Difference(*compared(a, [b[0], b[-1]] if ends else b, self.reference))
        return gap.text(1e4, 0), gap.verdict, n


def alternatives(rows: list[Row], results: Path) -> tuple[str, list[list[str]]]:
    """Every dial against `dual`, and against logit mixing at twice the compute and at equal compute."""
    body, claims = [], []
    for group in GROUPS:
        areas = Areas(rows, results, group)
        for method, run in group.runs.items():
            if not curves(rows, run):
                continue
            line, counts = [], set()
            for other, name, ends in (
                ("dual", "dual", False),
                ("mixing", "two networks mixed, twice the MACs", False),
                ("mixing", "two networks mixed, equal MACs", True),
            ):
                found = None if method == other else areas.gap(run, group.runs[other], ends=ends)
                line.append(f"{found[0]} {found[1]}" if found else "")
                if found:
                    counts.add(str(found[2]))
                    if method != "mixing":
                        claims.append([f"{METHODS[method]} against {name} ({group.name})", *found[:2]])
            body.append([group.name, METHODS[method], ", ".join(sorted(counts)), *line])
    text = (
        "## Every dial against plain alternatives\n\nThe area under a dial is the area that its eleven positions "
        "dominate in the plane of SA and RA. It counts only above the SA of the dedicated model at λ = 1 minus 2 "
        "points. The table shows differences of areas in square points, on the same images, with paired bootstrap 95 % "
        "intervals. Logit mixing has a standard and a robust network, and an image costs two passes between its ends. "
        "At equal MACs, it is restricted to its two ends.\n\n"
    )
    head = ["", "method", "n", "minus dual", "minus logit mixing (twice the MACs)", "minus logit mixing (equal MACs)"]
    return (text + table(head, body), claims) if body else ("", [])


def equal_attacks(rows: list[Row], results: Path, speed: list[Row]) -> tuple[str, list[list[str]]]:
    """Methods that train in halves, with as many attacked images as OAT, and OAT with as many updates."""
    step = steps(speed)
    body, claims = [], []
    for group in GROUPS:
        areas = Areas(rows, results, group)
        for method, run in group.twice.items():
            line = curve(rows, run)
            if not line:
                continue
            against_oat = areas.gap(run, group.runs["oat"])
            against_dual = None if method == "dual" else areas.gap(run, group.twice["dual"])
            took = 1.0 if method == "oat" else 2 * step[method.partition("-")[0]] / step["oat"]
            body.append(
                [
                    group.name,
                    TWICE[method],
                    f"{took:.2f}",
                    cell(line[0])[0],
                    cell(line[-1])[1],
                    *(f"{g[0]} {g[1]}" if g else "" for g in (against_oat, against_dual)),
                ]
            )
            for name, found in (("OAT, 6 epochs", against_oat), ("dual, 12 epochs", against_dual)):
                if found:
                    claims.append([f"{TWICE[method]}, against {name} ({group.name})", *found[:2]])
    text = (
        "## At equal numbers of attacked images\n\nA method that trains in halves attacks half of each batch, and its "
        "step costs about half of OAT's. Here it has 12 epochs instead of OAT's 6, and therefore makes twice as many "
        "updates. OAT with batches of 64 instead of 128 makes as many updates at its own cost; its time is counted in "
        "passes. Areas are defined as above.\n\n"
    )
    head = [
        "",
        "method",
        "training time ÷ OAT's (steps of `make bench`)",
        "SA, t = 0",
        "RA, t = 1",
        "area minus OAT's",
        "area minus that of dual, 12 epochs",
    ]
    return (text + table(head, body), claims) if body else ("", [])


def orders(before: list[list[str]], after: list[list[str]]) -> str:
    """Comparisons under PGD-20 and under a stronger attack, and how many verdicts change."""
    found = {line[0]: line[1:] for line in after}
    body = [[*line, *found[line[0]]] for line in before if line[0] in found]
    if not body:
        return ""
    turned = [line for line in body if line[2] != line[4]]
    opposite = [line for line in body if {line[2], line[4]} == {"better", "worse"}]
    text = (
        "## Do these orders hold under a stronger attack?\n\nThe comparisons are repeated on 1 000 images with PGD-50 "
        f"on the margin loss after PGD-20, at all eleven points: {len(turned)} of {len(body)} verdicts change, "
        f"{len(opposite)} of them to the opposite. The areas are smaller because RA is lower; the SA above which they "
        "count is the same under every attack.\n\n"
    )
    head = ["", "under PGD-20", "verdict", "under PGD-20 and PGD-50 on the margin", "verdict"]
    return text + table(head, body)


def standard(rows: list[Row], run: str) -> Row | None:
    """The row of a run at its robust end under `standard`."""
    found = find(rows, run, None, tier="standard")
    return next((r for r in found if r["at"].get("robustness", 1.0) == 1.0), None)


def cifar(rows: list[Row]) -> str:
    """The ends of every method on the subset of CIFAR-10."""
    body = []
    for seed, group in enumerate(g for g in GROUPS if g.name.startswith("CIFAR")):
        for level, r in dedicated(rows, group):
            last = standard(rows, r["run"])
            body.append(
                [
                    f"dedicated λ = {level}",
                    str(seed),
                    *cell(r),
                    "",
                    "",
                    per_cent(last["robust_accuracy"]) if last else "",
                    f"{r['macs']['mean'] / 1e6:.1f} M",
                    f"{r['params']:,}",
                    f"{r['train']['seconds']:.0f}",
                ]
            )
        named = [(METHODS[m], run) for m, run in group.runs.items()]
        named += [(TWICE[m], run) for m, run in group.twice.items()]
        for name, run in named:
            found = curve(rows, run)
            if not found:
                continue
            a, b, last = found[0], found[-1], standard(rows, run)
            body.append(
                [
                    name,
                    str(seed),
                    *cell(a),
                    *cell(b),
                    per_cent(last["robust_accuracy"]) if last else "",
                    f"{b['macs']['mean'] / 1e6:.1f} M",
                    f"{b['params']:,}",
                    f"{b['train']['seconds']:.0f}",
                ]
            )
    if not body:
        return ""
    some = next(r for r in worst_rows(rows) if r["run"].startswith("c10-pgd-at-"))
    text = (
        "## CIFAR-10 subset\n\nEach network is a ResNet-8 of width 16, trained with PGD-2 at eps 8/255 on "
        f"{some['train']['images']} images for {some['train']['epochs']} epochs, unless its name says otherwise. RA is "
        "measured under PGD-20 on 1 000 test images, and under `standard` on 200. Such short training compares the "
        "methods on equal terms; it does not show what they can reach.\n\n"
    )
    head = [
        "",
        "seed",
        "SA, t = 0",
        "RA, t = 0",
        "SA, t = 1",
        "RA, t = 1",
        "RA, t = 1, `standard`",
        "MACs at t = 1",
        "parameters",
        "training, s (shared machine)",
    ]
    return text + table(head, body)


def stronger(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """The robust end of every run under `quick`, `standard` and `full`, on the same images."""
    body, gaps = [], []
    for run in dict.fromkeys(r["run"] for r in rows if r["tier"] in ("standard", "full")):
        said: dict[str, Row] = {}
        for tier in ("standard", "full"):
            for r in rows:
                if (r["run"], r["tier"], r["at"].get("robustness", 1.0)) == (run, tier, 1.0):
                    name = r["attack"]["name"]
                    # The row of the last attack of `standard` has the images that survive all its attacks.
                    said |= {name: r} if name in ("pgd20", "square", "autoattack", "worst") else {}
        if not {"pgd20", "square", "worst"} <= set(said):
            continue
        auto = said.get("autoattack")
        body.append(
            [
                run,
                str(said["worst"]["n"]),
                per_cent(said["worst"]["clean_accuracy"]),
                per_cent(said["pgd20"]["robust_accuracy"]),
                per_cent(said["square"]["robust_accuracy"]),
                per_cent(auto["robust_accuracy"]) if auto else "",
                ", ".join(said["worst"]["flags"]) or "none",
            ]
        )
        if auto:
            gaps.append(100 * (said["square"]["robust_accuracy"] - auto["robust_accuracy"]))
    if not body:
        return "", []
    claims = (
        [
            [
                f"`standard` within 1 point of AutoAttack after it, at robust ends of the study ({len(gaps)} runs)",
                f"largest difference {max(gaps):.1f} points",
                "met" if max(gaps) <= 1 else "not met",
            ]
        ]
        if gaps
        else []
    )
    text = (
        "## The robust end under stronger attacks\n\nAll attacks run at t = 1 on the same images. AutoAttack (standard "
        "version) runs only on images that `standard` failed to fool, so its column is the worst case of both.\n\n"
    )
    head = [
        "run",
        "n",
        "SA",
        "RA, PGD-20 (`quick`)",
        "RA, `standard`",
        "RA, `standard` and AutoAttack (`full`)",
        "flags",
    ]
    return text + table(head, body), claims
