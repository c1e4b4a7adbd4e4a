"""The sections of docs/results.md on every way to condition: claims, dials, widths, masks, noise."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from markdown import cell, dial, find, per_cent, table
from plain import Row, read_bits, worst_rows

from rheostat.reports.page import COLOURS
from rheostat.results.areas import normalised
from rheostat.results.intervals import paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIVE = {"oat": "oat-s1", "dual": "dual-s1", "float": "float-s1", "floats": "floats-0.3", "smart": "smart-fashion-e10"}
RULES = (None, "at-0", "at-0.5", "blend")


def seeds(rows: list[Row]) -> str:
    """SA at the clean end and RA at the robust end, both seeds."""
    pairs = {
        "OAT": ("oat-fashion", "oat-s1"),
        "dual": ("dual-fashion", "dual-s1"),
        "FLOAT": ("float-fashion", "float-s1"),
        "FLOAT, wall time of OAT": ("float-fashion-e12", None),
        "FLOATS 0.3": ("floats-0.3", "floats-0.3-s1"),
        "SMART 0.367": ("smart-fashion-e10", "smart-e10-s1"),
    }
    body = []
    for name, runs in pairs.items():
        for seed, run in enumerate(runs):
            found = dial(rows, run) if run else []
            if found:
                a, b = found[0], found[-1]
                body.append(
                    [
                        name,
                        str(seed),
                        *cell(a),
                        *cell(b),
                        f"{a['train']['epochs']}",
                        f"{a['train']['seconds']:.0f}",
                        str(a["n"]),
                    ]
                )
    for level in (0.0, 0.2, 1.0):
        for seed, run in enumerate((f"pgd-at-{level:g}", f"pgd-at-{level:g}-s1")):
            for row in find(rows, run, None):
                body.append(
                    [
                        f"dedicated λ = {level:g}",
                        str(seed),
                        *cell(row),
                        "",
                        "",
                        f"{row['train']['epochs']}",
                        f"{row['train']['seconds']:.0f}",
                        str(row["n"]),
                    ]
                )
    head = [
        "",
        "seed",
        "SA, t = 0",
        "RA, t = 0",
        "SA, t = 1",
        "RA, t = 1",
        "epochs",
        "training s (shared machine)",
        "n",
    ]
    return "## Two seeds\n\n" + table(head, body)


def volumes(rows: list[Row], results: Path) -> tuple[str, dict[str, tuple[float, float, float]]]:
    """Normalised hypervolume along the calibrated dial, per seed."""
    found: dict[str, tuple[float, float, float]] = {}
    for seed, runs in enumerate(
        (
            {"oat": "oat-fashion", "dual": "dual-fashion", "float": "float-fashion", "floats": None, "smart": None},
            {
                "oat": "oat-s1",
                "dual": "dual-s1",
                "float": "float-s1",
                "floats": "floats-0.3-s1",
                "smart": "smart-e10-s1",
            },
        )
    ):
        names = [f"pgd-at-{v}{'-s1' if seed else ''}" for v in ("0", "0.2", "1")]
        base = [find(rows, n, None) for n in names]
        if not all(base):
            continue
        dedicated = [read_bits(results, b[0]) for b in base]
        for method, run in runs.items():
            mine = dial(rows, run) if run else []
            if mine:
                bits = [read_bits(results, r) for r in mine]
                found[f"{method}, seed {seed}"] = normalised(bits, dedicated)
    body = [[k, f"{v:.3f} [{low:.3f}, {high:.3f}]"] for k, (v, low, high) in found.items()]
    text = (
        "## Hypervolume over the dial\n\nArea dominated in (SA, RA) above (SA of the dedicated model at "
        "λ = 1 less 2 points, 0), over that of the three dedicated models; eleven dial positions; "
        "bootstrap 95 %.\n\n"
    )
    return text + table(["method", "hypervolume ÷ dedicated"], body), found


def jump(found: list[Row]) -> float:
    """The largest rise of RA per 0.1 of the dial, in points."""
    return max(
        10 * (b["robust_accuracy"] - a["robust_accuracy"]) / (b["at"]["robustness"] - a["at"]["robustness"])
        for a, b in itertools.pairwise(found)
    )


def shortfall(mine: list[Row], other: list[Row]) -> float:
    """By how much, at equal RA, the SA of a dial lies below another's: worst place, in points."""
    curve = sorted((r["robust_accuracy"], r["clean_accuracy"]) for r in mine)
    worst = 0.0
    for row in other:
        x, y = row["robust_accuracy"], row["clean_accuracy"]
        # What the dial offers at an RA at least this one, linearly between its positions.
        for (x0, y0), (x1, y1) in itertools.pairwise(curve):
            if x0 <= x <= x1 and x1 > x0:
                worst = max(worst, y - (y0 + (x - x0) / (x1 - x0) * (y1 - y0)))
    return 100 * worst


def continuity(rows: list[Row]) -> tuple[str, bool]:
    """Every rule between the norm sets, for five methods: jumps and ends."""
    body, met = [], True
    for method, run in FIVE.items():
        default = dial(rows, run)
        if not default:
            continue
        for rule in RULES:
            found = default if rule is None else find(rows, run, rule)
            if len(found) < 2:
                continue
            size = jump(found)
            below = shortfall(default, found) if rule else 0.0
            if rule is None:
                met &= size <= 15
            body.append(
                [
                    method,
                    rule or "calibrated (default)",
                    f"{size:.1f}",
                    per_cent(found[1]["clean_accuracy"]),
                    per_cent(found[1]["robust_accuracy"]),
                    f"{below:.1f}" if rule else "",
                    str(found[0]["n"]),
                ]
            )
    text = (
        "## Is the dial continuous?\n\nLargest rise of RA per 0.1 of the dial (bar for the default: 15 "
        "points); SA and RA at 0.1; by how much the default's SA lies below this rule's at equal RA (the "
        "half width of an interval here is 3 to 4 points).\n\n"
    )
    head = ["method", "rule", "jump", "SA at 0.1", "RA at 0.1", "default lower by", "n"]
    return text + table(head, body), met


def widths(rows: list[Row]) -> tuple[str, bool]:
    """Each width against a model trained at that width alone."""
    body, met = [], True
    for name, run, alone in (
        ("OATS", "oats-fashion", "oat"),
        ("OATS, a head per width", "oats-heads", "oat"),
        ("FLOAT-slim", "float-slim-fashion", "float"),
    ):
        for width in (0.5, 0.75, 1.0):
            dedicated = {0.5: f"{alone}-width-0.5", 0.75: f"{alone}-width-0.75", 1.0: f"{alone}-fashion"}
            mine = {r["at"]["robustness"]: r for r in find(rows, run, "at-0") if r["at"]["width"] == width}
            theirs = {r["at"]["robustness"]: r for r in find(rows, dedicated[width], "at-0")}
            if not mine or not theirs:
                continue
            gaps = [
                100 * (mine[level][k] - theirs[level][k])
                for level, k in ((0.0, "clean_accuracy"), (1.0, "robust_accuracy"))
            ]
            if run != "oats-heads":  # an option, not the default that the bar is for
                met &= min(gaps) >= -2
            body.append(
                [
                    name,
                    f"{width:g}",
                    cell(mine[0.0])[0],
                    cell(mine[1.0])[1],
                    cell(theirs[0.0])[0],
                    cell(theirs[1.0])[1],
                    f"{gaps[0]:+.1f}",
                    f"{gaps[1]:+.1f}",
                    f"{mine[1.0]['macs']['mean'] / 1e6:.2f} M",
                    "met" if min(gaps) >= -2 else "not met",
                ]
            )
    head = [
        "",
        "width",
        "SA(0)",
        "RA(1)",
        "dedicated width SA(0)",
        "RA(1)",
        "SA difference",
        "RA difference",
        "MACs",
        "bar",
    ]
    text = (
        "## Widths\n\nEach width against a model of that width alone, trained as long (bar: within 2 "
        "points). A step of the slimmed net trains every width, so it costs the sum of theirs.\n\n"
    )
    return text + table(head, body) + "\n![λ × width](widths.png)\n", met


def densities(rows: list[Row], costs: list[Row]) -> str:
    """FLOATS: density, structure, accuracy, non-zeros, MACs, time."""
    body = []
    speed = {str(r["name"]): r for r in costs if str(r["name"]).startswith("FLOATS")}
    for structure, prefix in (("unstructured", "floats-"), ("channel", "floats-channel-")):
        for density in (0.5, 0.3, 0.1):
            run = f"{prefix}{density}"
            found = dial(rows, run) or find(rows, run, "at-0")
            if not found:
                continue
            a, b = found[0], found[-1]
            took = speed.get(f"FLOATS {structure} {density} ÷ dense FLOAT, ResNet-20")
            body.append(
                [
                    structure,
                    f"{density:g}",
                    cell(a)[0],
                    cell(b)[0],
                    cell(b)[1],
                    f"{b['convolution_nonzeros']:,}",
                    f"{b['macs']['mean'] / 1e6:.2f} M",
                    f"{b['macs_nonzero'] / 1e6:.2f} M",
                    f"{took['ratio']['median']:.2f}" if took else "",
                ]
            )
    head = [
        "structure",
        "density",
        "SA, λ = 0",
        "SA, λ = 1",
        "RA, λ = 1",
        "convolution non-zeros",
        "MACs, dense kernels",
        "MACs without zeros",
        "folded latency ÷ dense (ResNet-20, batch 32)",
    ]
    text = (
        "## FLOATS\n\nUnstructured zeros save storage and counted MACs and no time. Channels inside blocks "
        "(`density` is the share of them that stays; stem, shortcuts and residual stream are whole) are "
        "cut out by `fold`.\n\n"
    )
    return text + table(head, body)


def smart(rows: list[Row], groups: dict[str, tuple[str, str, str]]) -> tuple[str, dict[str, tuple[str, str]]]:
    """SMART against OAT: non-zeros and the ends. `groups`: its run, OAT's, and the dense plain one's."""
    body, claims = [], {}
    for name, (run, other, plain) in groups.items():
        mine, theirs = dial(rows, run), dial(rows, other)
        # OAT's convolutions are the plain net's; rows made before they were counted apart lack them.
        counted = [
            r["convolution_nonzeros"]
            for r in (*find(rows, plain, None), *find(rows, other, None))
            if "convolution_nonzeros" in r
        ]
        if not mine or not theirs or not counted:
            continue
        dense, path = counted[0], mine[-1]["convolution_nonzeros"]
        gaps = [
            100 * (mine[0]["clean_accuracy"] - theirs[0]["clean_accuracy"]),
            100 * (mine[-1]["robust_accuracy"] - theirs[-1]["robust_accuracy"]),
        ]
        body.append(
            [
                name,
                f"{dense:,}",
                f"{path:,}",
                f"{dense / path:.2f}",
                f"{theirs[-1]['nonzeros'] / path:.2f}",
                f"{mine[5]['convolution_nonzeros']:,}",
                f"{mine[-1]['macs_nonzero'] / 1e6:.2f} M",
                cell(mine[0])[0],
                cell(mine[-1])[1],
                f"{gaps[0]:+.1f}",
                f"{gaps[1]:+.1f}",
            ]
        )
        holds = dense / path >= 2.72 and min(gaps) >= -1.5
        said = f"{dense / path:.2f}× fewer; SA(0) {gaps[0]:+.1f}, RA(1) {gaps[1]:+.1f}"
        claims[name] = (said, "met" if holds else "not met")
    head = [
        "",
        "non-zeros, dense plain net",
        "per path",
        "dense plain ÷ path",
        "all of OAT's ÷ path",
        "union",
        "MACs per path without zeros",
        "SA(0)",
        "RA(1)",
        "SA(0) less OAT's",
        "RA(1) less OAT's",
    ]
    text = (
        "## SMART\n\n10 epochs in halves see as many attacked images as OAT's 6. Non-zeros are those of "
        "convolutions.\n\n"
    )
    return text + table(head, body), claims


def ablation(rows: list[Row]) -> str:
    """Mask design: learned or random, free or disjoint, shared stages, two densities."""
    body = []
    values: dict[tuple[str, str, int, float], tuple[float, float]] = {}
    for density, masks, overlap, shared in itertools.product(
        (0.35, 0.15), ("learned", "random"), ("free", "disjoint"), (0, 2)
    ):
        found = find(rows, f"mask-{masks}-{overlap}-{shared}-{density}", "at-0")
        if not found:
            continue
        a, b = found[0], found[-1]
        values[masks, overlap, shared, density] = (a["clean_accuracy"], b["robust_accuracy"])
        body.append(
            [
                f"{density:g}",
                masks,
                overlap,
                str(shared),
                cell(a)[0],
                cell(b)[0],
                cell(b)[1],
                f"{b['convolution_nonzeros']:,}",
            ]
        )
    if not body:
        return ""

    def mean_gap(place: int, one: object, other: object) -> tuple[float, float, int]:
        gaps = []
        for key, value in values.items():
            twin = tuple(other if i == place else k for i, k in enumerate(key))
            if key[place] == one and twin in values:
                gaps.append([100 * (x - y) for x, y in zip(value, values[twin], strict=True)])  # type: ignore[index]
        n = len(gaps)
        return sum(g[0] for g in gaps) / max(n, 1), sum(g[1] for g in gaps) / max(n, 1), n

    sentences = []
    for place, one, other, text in (
        (0, "learned", "random", "Learned masks against random ones"),
        (1, "free", "disjoint", "Paths that may overlap against disjoint ones"),
        (2, 2, 0, "The stem and the first stage dense and shared against no sharing"),
    ):
        clean, robust, n = mean_gap(place, one, other)
        sentences.append(
            f"{text}: SA(0) {clean:+.1f} and RA(1) {robust:+.1f} points on average over {n} pairs "
            "that differ in this alone (one seed; a pair's interval is about ± 3 points)."
        )
    head = ["density", "masks", "overlap", "shared stages", "SA(0)", "SA(1)", "RA(1)", "non-zeros per path"]
    return "## SMART's masks\n\n" + "\n".join(f"- {s}" for s in sentences) + "\n\n" + table(head, body)


def noise(rows: list[Row], results: Path, alphas: list[Row]) -> str:
    """Sampled noise: PGD-20 against PGD-20 with gradients averaged over 20 draws."""
    found = find(rows, "float-sampled", "at-0")
    text = "## FLOAT's noise\n\n"
    for row in alphas:
        text += f"α per layer ({row['of']}): {', '.join(f'{v:.3f}' for v in row['value'])}.\n\n"  # type: ignore[attr-defined]
    by = {r["attack"]["of"][0]: r for r in found}
    if {"pgd20", "pgd20-eot20"} <= set(by):
        plain, eot = by["pgd20"], by["pgd20-eot20"]
        gap = paired(*(read_bits(results, r)[1] for r in (plain, eot)))
        text += (
            f"Sampled at λ = 1: RA {per_cent(plain['robust_accuracy'])} under PGD-20, "
            f"{per_cent(eot['robust_accuracy'])} under PGD-20 with 20 draws a gradient (means over 10 fresh "
            f"draws, {plain['n']} images); difference {100 * gap[0]:+.1f} "
            f"[{100 * gap[1]:+.1f}, {100 * gap[2]:+.1f}] points, paired. "
            f"Flags on the first: {', '.join(plain['flags']) or 'none'}. "
        )
    return text + "A frozen point gives equal bits twice (tested).\n"


def pareto(rows: list[Row]) -> Figure:
    """λ × width: MACs against SA (hollow) and RA (filled), a colour per composition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for i, run in enumerate(dict.fromkeys(r["run"] for r in rows)):
        for level, kind, style in ((0.0, "clean", "o--"), (1.0, "clean", "s:"), (1.0, "robust", "D-")):
            found = [r for r in worst_rows(rows) if r["run"] == run and r["at"]["robustness"] == level]
            found.sort(key=lambda r: r["macs"]["mean"])
            name = f"{run}, {'SA' if kind == 'clean' else 'RA'} at λ = {level:g}"
            axes.plot(
                [r["macs"]["mean"] / 1e6 for r in found],
                [100 * r[f"{kind}_accuracy"] for r in found],
                style,
                color=COLOURS[i],
                markersize=5,
                label=name,
                markerfacecolor=COLOURS[i] if kind == "robust" else "white",
            )
    axes.set_xlabel("MACs an image, millions (width 0.5, 0.75, 1)")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    return figure
