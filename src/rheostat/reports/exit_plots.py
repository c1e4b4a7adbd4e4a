"""Plots of multi-exit points from rows: the compute that early exit saves, and the exits that images take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rheostat.reports.dial_plots import COLOURS, MOST, legend, spaced
from rheostat.results.curves import curve_names, curves
from rheostat.results.row import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def live(rows: list[Row]) -> list[Row]:
    """The worst-case rows of points with live exits."""
    return [r for r in rows if r.attack.name == "worst" and r.exit_shares]


def accuracy_against_macs(rows: list[Row]) -> Figure:
    """SA and RA against mean MACs per image, as the dial `exit` moves the thresholds; one colour per curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    worst = [r for r in rows if r.attack.name == "worst" and "exit" in r.at]
    every = list(curves(worst, along="exit").values())
    lines = spaced(every, MOST)
    if len(lines) < len(every):
        axes.set_title(f"{len(lines)} of {len(every)} curves, from the fewest to the most MACs", fontsize=9)
    for i, (line, name) in enumerate(zip(lines, curve_names(lines), strict=True)):
        found = sorted(line, key=lambda r: r.macs.mean)
        for kind, style in (("clean", "o-"), ("robust", "s--")):
            axes.plot(
                [r.macs.mean / 1e6 for r in found],
                [100 * (r.clean_accuracy if kind == "clean" else r.robust_accuracy) for r in found],
                style,
                color=COLOURS[i % len(COLOURS)],
                markersize=5,
                label=f"{name}, {kind}",
            )
        # Rows of version 1 of the tiers left images out of the cost under attack.
        counted = [(r, r.macs_attacked) for r in found if r.macs_attacked and r.tier_version > 1]
        attacked = [(cost.mean / 1e6, 100 * r.robust_accuracy) for r, cost in counted]
        axes.plot(
            [cost for cost, _ in attacked],
            [robust for _, robust in attacked],
            "x",
            color=COLOURS[i % len(COLOURS)],
            label=f"{name}, robust at the attacked cost",
        )
        for row in found[-1:]:
            if row.macs_static is not None:
                axes.axvline(row.macs_static / 1e6, color="#888888", linewidth=0.8)
    axes.set_xlabel("mean MACs per image, millions (vertical line: the static network)")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    legend(figure, fontsize=7, columns=1, inside=9)
    return figure


def shares_per_exit(rows: list[Row]) -> Figure:
    """The share of images that leave by each exit, clean and attacked; one pair of bars per row."""
    from matplotlib.figure import Figure

    found = live(rows)
    figure = Figure(figsize=(6.4, 1.0 + 0.45 * max(2 * len(found), 2)), layout="constrained")
    axes = figure.add_subplot()
    names: list[str] = []
    for row in found:
        label = ", ".join(f"{k} = {v:g}" for k, v in row.at.items() if k in ("exit", "width"))
        assert row.exit_shares is not None
        for kind, shares in row.exit_shares.model_dump(exclude_none=True).items():
            left = 0.0
            for exit_, share in enumerate(shares):
                axes.barh(
                    len(names),
                    100 * share,
                    left=left,
                    color=COLOURS[exit_ % len(COLOURS)],
                    label=f"exit {exit_ + 1}" if not names else None,
                )
                left += 100 * share
            names.append(f"{row.run}, {label}, {kind}")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("share of images, %")
    legend(figure, fontsize=7, columns=4, inside=0)
    return figure
