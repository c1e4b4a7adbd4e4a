"""The pictures of docs/concepts/: the dial, λ and t, attackers' knowledge, flags, costs. Drawn from rows or by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from groups import curve
from markdown import find
from matplotlib.figure import Figure
from plain import Row, read_rows_plain

from rheostat.reports.dial_plots import COLOURS, MARKS

RESULTS = Path(__file__).parents[1] / "results"


def _axes(width: float = 7.2, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def the_dial(rows: list[Row]) -> Figure:
    """SA and RA of one network at eleven positions of its dial."""
    line = curve(rows, "c10-dual-e12")
    figure, axes = _axes()
    t = [r["at"]["robustness"] for r in line]
    for key, colour, name in (("clean", COLOURS[0], "standard accuracy"), ("robust", COLOURS[1], "robust accuracy")):
        axes.plot(t, [100 * r[f"{key}_accuracy"] for r in line], "o-", color=colour, markersize=4, label=name)
    axes.set_xlabel("position of the dial, t")
    axes.set_ylabel("per cent of test images")
    axes.set_title(f"One network, CIFAR-10 subset, PGD-20, test, n = {line[0]['n']}", fontsize=10)
    axes.set_ylim(bottom=0)
    _finish(axes)
    return figure


def lambda_and_t(rows: list[Row]) -> Figure:
    """RA against λ, where it jumps, and against t, where it does not."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    jumping = find(rows, "oat-fashion", "at-0")
    for axes, line, label in ((left, jumping, "λ"), (right, curve(rows, "oat-fashion"), "t")):
        x = [r["at"]["robustness"] for r in line]
        axes.plot(x, [100 * r["robust_accuracy"] for r in line], "o-", color=COLOURS[1], markersize=4)
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    left.set_ylabel("robust accuracy, %")
    left.set_title("before calibration: λ", fontsize=10)
    right.set_title("after calibration: t", fontsize=10)
    figure.suptitle(f"OAT, Fashion-MNIST, PGD-20, test, n = {jumping[0]['n']}", fontsize=10)
    return figure


def attackers(rows: list[Row]) -> Figure:
    """What each attacker knows of the dial, and what it does."""
    del rows
    figure, axes = _axes(7.2, 2.9)
    axes.axis("off")
    axes.set_xlim(0, 3)
    axes.set_ylim(0, 1)
    panels = (
        ("known", "knows the point in use", "attacks exactly that point", "every row, unless it says otherwise"),
        (
            "unknown",
            "does not see the point",
            "attacks the mean loss over points,\nand the most harmful point",
            "--transfer",
        ),
        ("chosen", "may pick the point", "an image counts only if it survives\nat every point", "--transfer"),
    )
    for i, (name, sees, does, where) in enumerate(panels):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": COLOURS[i], "linewidth": 1.6}
        axes.text(i + 0.5, 0.86, name, ha="center", fontsize=12, weight="bold", color=COLOURS[i])
        axes.text(i + 0.5, 0.63, sees, ha="center", va="center", fontsize=9, bbox=box)
        axes.annotate("", (i + 0.5, 0.40), (i + 0.5, 0.53), arrowprops={"arrowstyle": "->", "color": "#666666"})
        axes.text(i + 0.5, 0.27, does, ha="center", va="center", fontsize=8, bbox=box)
        axes.text(i + 0.5, 0.04, where, ha="center", fontsize=8, color="#666666")
    return figure


def flags(rows: list[Row]) -> Figure:
    """RA under attacks of three strengths at four points, with a flag where `quick` overestimates it."""
    del rows
    read = read_rows_plain(RESULTS / "believe.jsonl")
    figure, axes = _axes()
    points = sorted({(r["run"], r["at"]["robustness"]) for r in read if r["tier"] == "standard"})
    for place, (run, at) in enumerate(points):
        here = [r for r in read if (r["run"], r["at"]["robustness"]) == (run, at)]
        standard = [r for r in here if r["tier"] == "standard"]
        bars = (
            next(r for r in standard if r["attack"]["name"] == "pgd20"),
            next(r for r in standard if r["attack"]["name"] == "worst"),
            next((r for r in here if r["attack"].get("of") == ["autoattack"]), None),
        )
        for i, (row, name) in enumerate(zip(bars, ("PGD-20", "standard", "AutoAttack"), strict=True)):
            if row is not None:
                height = 100 * row["robust_accuracy"]
                axes.plot(
                    place + 0.1 * (i - 1),
                    height,
                    MARKS[i],
                    color=COLOURS[i],
                    markersize=9,
                    label=None if place else name,
                )
        if raised := bars[1]["flags"]:
            axes.text(place, 71, "⚑ " + ", ".join(raised), ha="center", fontsize=8, color="#B00020")
    axes.set_xticks(range(len(points)), [f"{run}, λ = {at:g}" for run, at in points], fontsize=8)
    axes.set_ylim(58, 74)
    axes.grid(axis="y", alpha=0.25)
    axes.set_ylabel("robust accuracy, %")
    axes.set_title("Fashion-MNIST, test, n = 500: weak attacks overestimate RA; a flag marks where", fontsize=10)
    axes.legend(fontsize=8, loc="upper right", ncols=3)
    return figure


def costs(rows: list[Row]) -> Figure:
    """Remaining operations and remaining time, for widths and exits."""
    folded = [r for r in read_rows_plain(RESULTS / "costs.jsonl") if "width 0.5" in r.get("name", "")]
    exits = [r for r in read_rows_plain(RESULTS / "exit-latency.jsonl") if r["batch"] == 256]
    bars = [(r["name"].replace("folded ", "").replace(" ÷ width 1", ""), 0.5**2, r["ratio"]["median"]) for r in folded]
    for r in exits:
        found = [
            w for w in rows if w["run"] == r["name"] and w["attack"]["name"] == "worst" and w["at"].get("exit") == 1.0
        ]
        row = max(found, key=lambda w: (w["n"], len(w["attack"]["of"])))
        bars.append((f"{r['name']}, exit = 1", row["macs"]["mean"] / row["macs_static"], r["ratio"]["median"]))
    figure, axes = _axes()
    for place, (_, work, time) in enumerate(bars):
        axes.barh(place + 0.19, 100 * work, 0.36, color=COLOURS[0], label="operations (MACs)" if not place else None)
        axes.barh(place - 0.19, 100 * time, 0.36, color=COLOURS[1], label="measured time" if not place else None)
    axes.axvline(100, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.set_xlabel("per cent of the full network")
    axes.set_title("CPU; batch 32 (widths; MACs ≈ width²) and 256 (exits)", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


PICTURES: dict[str, Callable[[list[Row]], Figure]] = {
    "dial": the_dial,
    "lambda-and-t": lambda_and_t,
    "attackers": attackers,
    "flags": flags,
    "costs": costs,
}
"""The name of each picture of docs/concepts → the function that draws it."""
