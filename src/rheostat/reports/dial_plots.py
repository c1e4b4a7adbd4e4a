"""Two plots of a dial from rows: SA against RA, and both along the dial."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from rheostat.results.curves import curve_names, curves
from rheostat.results.labels import worst_rows
from rheostat.results.row import At, Row
from rheostat.runtime.spacing import evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
MOST = len(COLOURS)
"""The most curves of a plot along a dial; more could not be distinguished."""
INSIDE = 6
"""The most entries of a legend that lies inside the axes."""


def trade_off(rows: list[Row], *, title: str = "") -> Figure:
    """SA against RA: one mark per point with 95 % intervals; a curve joins rows that differ only in their points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    lines = list(curves(worst_rows(rows)).values())
    for i, (found, name) in enumerate(zip(lines, curve_names(lines), strict=True)):
        x = [100 * r.robust_accuracy for r in found]
        y = [100 * r.clean_accuracy for r in found]
        spread = [
            [[100 * abs(interval[side] - value) for value, interval in kind] for side in (0, 1)]
            for kind in ([r.accuracy(k) for r in found] for k in ("robust", "clean"))
        ]
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        axes.errorbar(
            x,
            y,
            xerr=spread[0],
            yerr=spread[1],
            color=colour,
            marker=mark,
            markersize=5,
            linewidth=1.2,
            elinewidth=0.6,
            capsize=2,
            label=name,
            alpha=0.9,
        )
        flagged = [(a, b) for a, b, r in zip(x, y, found, strict=True) if r.flags]
        for a, b in flagged:
            axes.annotate("⚑", (a, b), xytext=(4, 4), textcoords="offset points", color="#B00020")
        if len(found) > 1:
            for place in (0, len(found) - 1):
                axes.annotate(
                    _position(found[place].at),
                    (x[place], y[place]),
                    xytext=(6, 6),
                    textcoords="offset points",
                    fontsize=8,
                    color=colour,
                )
    axes.set_xlabel("robust accuracy, % (worst case over the attacks run)")
    axes.set_ylabel("standard accuracy, %")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    if len(lines) > 1:
        legend(figure, fontsize=8)
    return figure


def _position(at: At) -> str:
    """The position that labels the end of a curve: that of robustness, or of the first dial; empty without dials."""
    return f"{at.get('robustness', next(iter(at.values()))):g}" if at else ""


def along_dial(rows: list[Row]) -> Figure:
    """SA and RA against the dial's position, with intervals as bands.

    Of more than `MOST` curves, which other dials make, it shows as many, evenly spaced by MACs; the title says so.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    found = [r for r in worst_rows(rows) if "robustness" in r.at]
    every = list(curves(found, along="robustness").values())
    lines = spaced(every, MOST)
    if len(lines) < len(every):
        axes.set_title(f"{len(lines)} of {len(every)} curves, from the fewest to the most MACs", fontsize=9)
    for i, (line, run) in enumerate(zip(lines, curve_names(lines), strict=True)):
        t = [r.at["robustness"] for r in line]
        for kind, style in (("clean", "-"), ("robust", "--")):
            values = [100 * r.accuracy(kind)[0] for r in line]
            low = [100 * r.accuracy(kind)[1][0] for r in line]
            high = [100 * r.accuracy(kind)[1][1] for r in line]
            colour, name = COLOURS[i % len(COLOURS)], f"{run} {kind}"
            axes.plot(t, values, style, color=colour, marker=MARKS[i % len(MARKS)], markersize=4, label=name)
            axes.fill_between(t, low, high, color=colour, alpha=0.12)
    axes.set_xlabel("robustness dial")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    legend(figure, fontsize=8)
    return figure


def spaced(lines: list[list[Row]], most: int) -> list[list[Row]]:
    """At most this many curves, evenly spaced in the order of their MACs; all in the given order if they are fewer."""
    if len(lines) <= most:
        return lines
    return evenly(sorted(lines, key=lambda line: line[0].macs.mean), most)


def legend(figure: Figure, *, fontsize: int, columns: int = 2, inside: int = INSIDE) -> None:
    """The legend of a figure with one axes: inside it, or below it if there are more than `inside` entries.

    A figure grows by the height of a legend below it, because the axes would shrink otherwise.
    """
    (axes,) = figure.axes
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) <= inside:
        axes.legend(fontsize=fontsize)
        return
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + 0.3 + rows * fontsize * 1.5 / 72)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=fontsize - 1)


def as_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as PNG or SVG."""
    buffer = io.BytesIO()
    # Pages embed the SVG, and their background may be light or dark.
    options: dict[str, Any] = {"metadata": {"Date": None}, "transparent": True} if kind == "svg" else {}
    figure.savefig(buffer, format=kind, dpi=150, **options)
    return buffer.getvalue()
