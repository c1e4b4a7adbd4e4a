"""The section of docs/appendix on rivals: weights on a segment and two mixed networks, at equal attacked images."""

from __future__ import annotations

from pathlib import Path

import torch
import verdict
from markdown import cell, find, per_cent, signed, table
from matplotlib.figure import Figure
from plain import Row, read_bits
from verdict import DATA, POSITIONS, Line, curve

from rheostat.reports.dial_plots import COLOURS, MARKS
from rheostat.results.areas import compared
from rheostat.results.comparison import Difference

METHODS = {
    "oat": "OAT",
    "dual": "dual",
    "float": "FLOAT",
    "smart": "SMART",
    "line-re-estimated": "line (sampled, re-estimated norms)",
    "line": "line (sampled)",
    "line-halves": "line (halves)",
    "lora": "LoRA (one adapter)",
    "lora-per-end": "LoRA (one adapter per end, PaLoRA)",
    "mixing": "logit mixing",
    "mixednuts": "MixedNUTS",
}
TRIED = {
    "line-affine": "line (sampled), affine parts on the segment, one set of statistics",
    "line-halves-re-estimated": "line (halves), statistics re-estimated along λ",
    "lora-halves": "LoRA (one adapter), halves",
    "lora-r16": "LoRA (one adapter), rank 16",
    "mixednuts-t1": "MixedNUTS, T = 1",
}
"""Other settings of the rivals, on Fashion-MNIST at seed 0."""
GROUPS = {f"{data}, seed {seed}": pattern for data, patterns in DATA.items() for seed, pattern in enumerate(patterns)}
DEDICATED = ("pgd-at-0", "pgd-at-0.2", "pgd-at-1")
NAIVE = {"apart": "trained apart", "ancestor": "fine-tuned from one ancestor"}
MISSING = "not yet run"
HEAD = [
    "",
    "method",
    "SA, t = 0",
    "RA, t = 0",
    "SA, t = 1",
    "RA, t = 1",
    "RA, t = 1, PGD-20 alone",
    "area minus OAT's",
    "area minus dual's",
    f"MACs, t = {POSITIONS // 2 / (POSITIONS - 1):g}",
    "parameters",
    "training, s (shared machine)",
]


def gap(rows: list[Row], results: Path, pattern: str, run: str, other: str) -> str:
    """The difference of the areas of two dials on the same images, in the worst case over attacks, or ""."""
    if run == other or (bits := verdict.pair(rows, results, pattern, run, other)) is None:
        return ""
    found = Difference(*compared(*bits))
    return f"{found.text(1e4, 0)} {found.verdict}"


def line_of(rows: list[Row], results: Path, group: str, pattern: str, method: str, name: str) -> list[str]:
    """One method's line of the table."""
    found = curve(rows, pattern.format(method))
    if not found:
        return [group, name, MISSING, *[""] * (len(HEAD) - 3)]
    first, middle, last = found[0], found[len(found) // 2], found[-1]
    alone = next(r for r in rows if (r["run"], r["at"], r["attack"]["name"]) == (last["run"], last["at"], "pgd20"))
    return [
        group,
        name,
        *cell(first),
        *cell(last),
        per_cent(alone["robust_accuracy"]),
        gap(rows, results, pattern, method, "oat"),
        gap(rows, results, pattern, method, "dual"),
        f"{middle['macs']['mean'] / 1e6:.1f} M",
        f"{last['params']:,}",
        f"{last['train']['seconds']:.0f}",
    ]


def dedicated(rows: list[Row], group: str, pattern: str) -> list[list[str]]:
    """The lines of networks trained for one λ."""
    out = []
    for name in DEDICATED:
        said = f"dedicated λ = {name.rpartition('-')[2]}"
        row = next(iter(find(rows, pattern.format(name), None)), None)
        blank = [""] * (len(HEAD) - 3)
        if row is None:
            out.append([group, said, MISSING, *blank])
        else:
            macs, seconds = f"{row['macs']['mean'] / 1e6:.1f} M", f"{row['train']['seconds']:.0f}"
            out.append([group, said, "", "", *cell(row), "", "", "", macs, f"{row['params']:,}", seconds])
    return out


def barriers(rows: list[Row], results: Path) -> str:
    """The distance of the middle of a naive segment below the mean of its ends, on the same images."""
    body = []
    for data, short in (("Fashion-MNIST", "fmnist"), ("CIFAR-10 subset", "c10")):
        for kind, name in NAIVE.items():
            for seed in (0, 1):
                run = f"naive-{short}-{kind}-s{seed}"
                found = [next(iter(find(rows, f"{run}-{v:g}", None)), None) for v in (0.0, 0.5, 1.0)]
                if any(r is None for r in found):
                    body.append([data, name, str(seed), MISSING, "", "", "", ""])
                    continue
                shown = [r for r in found if r is not None]
                bits = [read_bits(results, r) for r in shown]
                cells = [f"{per_cent(r['clean_accuracy'])} / {per_cent(r['robust_accuracy'])}" for r in shown]
                depths = [below(*(b[i].double() for b in bits)) for i in (0, 1)]
                body.append([data, name, str(seed), *cells, *(signed(*d) for d in depths)])
    head = [
        "",
        "ends",
        "seed",
        "λ = 0, SA / RA",
        "λ = 0.5, SA / RA",
        "λ = 1, SA / RA",
        "SA, middle minus mean of the ends",
        "RA, middle minus mean of the ends",
    ]
    return (
        "### The naive rival\n\nThe weights, biases and norms of a standard and a robust network are interpolated. At "
        "each λ, the statistics are estimated again on training images (`benchmarks/measure/naive_segment.py`). "
        "Networks trained apart have 6 epochs each. Those fine-tuned from one ancestor share its 3 epochs of standard "
        "training and have 3 of their own. There is a barrier if the middle lies below the mean of the ends.\n\n"
        + table(head, body)
    )


def below(first: torch.Tensor, middle: torch.Tensor, last: torch.Tensor) -> tuple[float, float, float]:
    """(mean, low, high) of the middle minus the mean of both ends, paired by example; normal 95 % interval."""
    found = middle - (first + last) / 2
    spread = 1.96 * float(found.std()) / len(found) ** 0.5
    return float(found.mean()), float(found.mean()) - spread, float(found.mean()) + spread


def section(rows: list[Row], results: Path, lines: dict[str, list[Line]]) -> str:
    """The whole section; networks without rows are marked as not yet run."""
    body: list[list[str]] = []
    for group, pattern in GROUPS.items():
        if not any(r["run"] == pattern.format(m) for r in rows for m in (*METHODS, *DEDICATED)):
            body.append([group, "all", MISSING, *[""] * (len(HEAD) - 3)])
            continue
        body += dedicated(rows, group, pattern)
        body += [line_of(rows, results, group, pattern, method, name) for method, name in METHODS.items()]
    pattern = GROUPS["Fashion-MNIST, seed 0"]
    tried = [line_of(rows, results, "Fashion-MNIST, seed 0", pattern, method, name) for method, name in TRIED.items()]
    picture = (
        "![SA against RA along the dials of the rivals](../rivals.png)\n\n"
        if any(curve(rows, p.format(m)) for p in GROUPS.values() for m in METHODS)
        else ""
    )
    return (
        "## Rivals, at equal attacked images\n\n`rheostat queue benchmarks/queues/rivals.toml` trains these networks; "
        "each dial sees 50 000 attacked images. RA is the worst case per example over PGD-20 and PGD-50 on the margin "
        "loss. Two mixed networks are also attacked by PGD-20 on each of them alone, and MixedNUTS by both attacks "
        "with its nonlinearity bypassed. Differences of areas over six positions are in square points, with paired "
        "bootstrap 95 % intervals ([definition](study.md#every-dial-against-plain-alternatives)).\n\n"
        + verdict.section(lines)
        + "### Every run\n\n"
        + table(HEAD, body)
        + f"\n{picture}### Other settings of the rivals\n\n"
        + table(HEAD, tried)
        + "\n"
        + barriers(rows, results)
    )


def picture(rows: list[Row]) -> Figure | None:
    """SA against RA along every dial, a panel per data set and seed; None where nothing has run."""
    shown = {g: p for g, p in GROUPS.items() if any(curve(rows, p.format(m)) for m in METHODS)}
    if not shown:
        return None
    figure = Figure(figsize=(11.0, 4.4 * -(-len(shown) // 2)), layout="constrained")
    for place, (group, pattern) in enumerate(shown.items()):
        axes = figure.add_subplot(-(-len(shown) // 2), 2, place + 1)
        for i, (method, name) in enumerate(METHODS.items()):
            line = curve(rows, pattern.format(method))
            x, y = ([100 * r[f"{kind}_accuracy"] for r in line] for kind in ("robust", "clean"))
            style = "-" if i < len(COLOURS) else "--"
            if line:
                axes.plot(
                    x, y, style, color=COLOURS[i % 7], marker=MARKS[i % 7], markersize=4, linewidth=1.4, label=name
                )
        points = [r for name in DEDICATED for r in find(rows, pattern.format(name), None)]
        if points:
            x, y = ([100 * r[f"{kind}_accuracy"] for r in points] for kind in ("robust", "clean"))
            axes.plot(x, y, "kx", markersize=8, label="dedicated network at one λ")
        axes.set(title=group, xlabel="robust accuracy, worst case, %", ylabel="standard accuracy, %")
        axes.grid(alpha=0.25)
    named = [a.get_legend_handles_labels() for a in figure.axes]
    marks = {name: mark for marks, names in named for mark, name in zip(marks, names, strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure
