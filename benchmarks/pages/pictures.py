"""The pictures of README and of docs/: one dial, every dial of the study, and λ × width."""

from __future__ import annotations

from collections.abc import Iterable

from groups import GROUPS, METHODS, TWICE, curve, dedicated
from matplotlib.figure import Figure
from plain import Row, worst_rows

from rheostat.reports.dial_plots import COLOURS, MARKS

SHOWN = ("oat", "dual", "float", "floats-0.3", "smart", "mixing")
"""The methods in the study's picture."""


def one_dial(rows: list[Row]) -> Figure:
    """One network's dial on the CIFAR-10 subset, seed 0, and dedicated networks as crosses: README's picture."""
    group = next(g for g in GROUPS if g.name == "CIFAR-10 subset, seed 0")
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    longer, equal = curve(rows, group.twice["dual"]), curve(rows, group.runs["dual"])
    alone = dedicated(rows, group)
    for line, style, colour in ((longer, "o-", COLOURS[0]), (equal, "o--", COLOURS[5])):
        epochs = line[0]["train"]["epochs"]
        axes.plot(*_points(line), style, color=colour, markersize=4, label=f"one network with a dial, {epochs} epochs")
    for place, offset in ((0, (-4, -16)), (-1, (8, 4))):
        at = longer[place]["at"]["robustness"]
        x, y = 100 * longer[place]["robust_accuracy"], 100 * longer[place]["clean_accuracy"]
        axes.annotate(f"dial at {at:g}", (x, y), xytext=offset, textcoords="offset points", fontsize=9)
    label = f"a network trained for one balance, {alone[0][1]['train']['epochs']} epochs each"
    axes.plot(*_points(r for _, r in alone), "kx", markersize=9, markeredgewidth=2, label=label)
    first = longer[0]
    axes.set_title(
        f"CIFAR-10 subset ({first['train']['images']} training images), PGD-20, {first['split']}, n = {first['n']}",
        fontsize=10,
    )
    axes.set_xlabel("robust accuracy, %")
    axes.set_ylabel("standard accuracy, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="lower left")
    return figure


def dials(rows: list[Row]) -> Figure | None:
    """Every dial of the study: SA against RA, a panel per data set and seed, dedicated networks as crosses."""
    shown = [g for g in GROUPS if any(curve(rows, run) for run in g.runs.values())]
    if not shown:
        return None
    figure = Figure(figsize=(11.0, 4.2 * -(-len(shown) // 2)), layout="constrained")
    for place, group in enumerate(shown):
        axes = figure.add_subplot(-(-len(shown) // 2), 2, place + 1)
        for i, method in enumerate(SHOWN):
            for run, style in ((group.runs.get(method), "-"), (group.twice.get(method), ":")):
                line = curve(rows, run) if run else []
                if not line:
                    continue
                axes.plot(
                    *_points(line),
                    style,
                    color=COLOURS[i],
                    marker=MARKS[i] if style == "-" else None,
                    markersize=4,
                    linewidth=1.4,
                    label=METHODS[method] if style == "-" else TWICE[method],
                )
        axes.plot(
            *_points(r for _, r in dedicated(rows, group)), "kx", markersize=8, label="dedicated network at one λ"
        )
        axes.set_title(group.name, fontsize=10)
        axes.set_xlabel("robust accuracy under PGD-20, %")
        axes.set_ylabel("standard accuracy, %")
        axes.grid(alpha=0.25)
    named = [a.get_legend_handles_labels() for a in figure.axes]
    marks = {name: mark for marks, names in named for mark, name in zip(marks, names, strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _points(line: Iterable[Row]) -> tuple[list[float], list[float]]:
    found = list(line)
    return tuple([100 * r[f"{k}_accuracy"] for r in found] for k in ("robust", "clean"))  # type: ignore[return-value]


def widths(rows: list[Row]) -> Figure:
    """λ × width: MACs against SA (hollow) and RA (filled), a colour per composition."""
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
    axes.set_xlabel("MACs per image, millions (width 0.5, 0.75, 1)")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    return figure
