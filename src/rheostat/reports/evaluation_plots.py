"""Plots of an evaluation's checks from rows: transfer, attacks, radius, loss, calibration, worst images."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.results.curves import same_attacks, same_ball, same_setting, stated
from rheostat.results.labels import point_label, worst_cases, worst_rows
from rheostat.results.row import At, Row
from rheostat.runtime.files import read_tensors
from rheostat.runtime.spacing import evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 6
"""Maximum number of curves in one plot: the ends and evenly spaced points in between."""
FEWEST = 10
"""Minimum images in a bin of a reliability curve, because the accuracy of fewer images is noise."""


def some(rows: list[Row]) -> list[Row]:
    """At most MOST rows, evenly spaced, ends included."""
    return evenly(rows, MOST)


def row_name(row: Row, rows: list[Row]) -> str:
    """The point's label, with the run's name if there are several runs."""
    several = len({r.run for r in rows}) > 1
    return f"{row.run}: {point_label(row)}" if several else point_label(row)


def colours(count: int) -> list[tuple[float, ...]]:
    """Colours ordered by lightness, which colour-blind readers can distinguish."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]


def _axes(height: float = 3.6) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    return figure, figure.add_subplot()


def transfer_map(rows: list[Row]) -> Figure | None:
    """RA in per cent at each point (columns) on images made at each point (rows); the diagonal is *known*.

    Of several evaluations under different attacks, it shows the first.
    """
    crossed = [r for r in rows if r.knowledge == "transfer"]
    if not crossed:
        return None
    first = crossed[0]
    crossed = [r for r in crossed if same_setting(r, first) and same_ball(r, first) and same_attacks(r, first)]
    made: list[At] = []
    at: list[At] = []
    for r in crossed:
        if _source(r) not in made:
            made.append(_source(r))
        if r.at not in at:
            at.append(r.at)
    grid = [[float("nan")] * len(at) for _ in made]
    for r in crossed:
        grid[made.index(_source(r))][at.index(r.at)] = 100 * r.robust_accuracy
    figure, axes = _axes(1.6 + 0.34 * len(made))
    shown = axes.imshow(grid, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for i, j in itertools.product(range(len(made)), range(len(at))):
        dark, weight = grid[i][j] < 55, "bold" if made[i] == at[j] else "normal"
        axes.text(
            j,
            i,
            f"{grid[i][j]:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            weight=weight,
            color="white" if dark else "black",
        )
    labels = [[point_label(crossed[0], p) for p in found] for found in (at, made)]
    axes.set_xticks(range(len(at)), labels[0], rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(made)), labels[1], fontsize=8)
    axes.set_xlabel("scored at")
    axes.set_ylabel("images made at")
    figure.colorbar(shown, label="robust accuracy, %")
    return figure


def _source(row: Row) -> At:
    """The point that a row's images were made at."""
    return row.at if row.attack.made_at is None else row.attack.made_at


def ladder(rows: list[Row]) -> Figure | None:
    """RA after each attack of a worst case, one line per point."""
    found = some([r for r in worst_rows(rows) if len(r.attack.names) > 1])
    if not found:
        return None
    figure, axes = _axes()
    for row, colour in zip(found, colours(len(found)), strict=True):
        steps = _steps(row, rows)
        names = [n for n in row.attack.names if n in steps]
        values = [100 * steps[n].robust_accuracy for n in names]
        axes.plot(names, values, "o-", color=colour, markersize=4, label=row_name(row, found))
    axes.set_ylabel("robust accuracy left, %")
    axes.tick_params(axis="x", rotation=30, labelsize=8)
    _finish(axes)
    return figure


def _steps(worst: Row, rows: list[Row]) -> dict[str, Row]:
    """The rows of the attacks of a worst case, by name.

    The first attack ran on all images, the others on those that it and others before them left.
    """
    names, found = worst.attack.names, dict[str, Row]()
    for row in rows:
        name = row.attack.name
        if name not in names or row.at != worst.at or row.cumulative != (name != names[0]):
            continue
        before = names[: names.index(name)]
        if worst in worst_cases(row, rows) and all(stated(row, n) == stated(worst, n) for n in before):
            found[name] = row
    return found


def eps_curves(rows: list[Row]) -> Figure | None:
    """RA against the radius, on the probed sample; it must fall and reach chance level."""
    found = some([r for r in worst_rows(rows) if r.eps_curve])
    if not found:
        return None
    figure, axes = _axes()
    for row, colour in zip(found, colours(len(found)), strict=True):
        x, y = zip(*(row.eps_curve or ()), strict=True)
        axes.plot(x, [100 * v for v in y], "o-", color=colour, markersize=4, label=row_name(row, found))
    axes.axvline(found[0].attack.eps, color="#888888", linewidth=0.8)
    axes.set_xlabel(f"eps ({found[0].attack.norm}; the line: the radius of the rows)")
    axes.set_ylabel("robust accuracy, %")
    _finish(axes)
    return figure


def loss_curves(rows: list[Row]) -> Figure | None:
    """The attack's mean loss at each step; it should stop rising before the last step."""
    found = some([r for r in worst_rows(rows) if r.loss_curve])
    if not found:
        return None
    figure, axes = _axes()
    for row, colour in zip(found, colours(len(found)), strict=True):
        axes.plot(row.loss_curve or [], color=colour, label=row_name(row, found))
    axes.set_xlabel("attack step")
    axes.set_ylabel("mean loss")
    _finish(axes)
    return figure


def reliability(rows: list[Row]) -> Figure | None:
    """Accuracy against confidence on clean images, in bins; the diagonal is perfect calibration."""
    found = some([r for r in worst_rows(rows) if r.calibration])
    if not found:
        return None
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for row, colour in zip(found, colours(len(found)), strict=True):
        assert row.calibration is not None
        bins = [b for b in row.calibration.bins if round(b[2] * row.n) >= FEWEST]
        confidence, right = [b[0] for b in bins], [b[1] for b in bins]
        label = f"{row_name(row, found)}: ECE {100 * row.calibration.ece:.1f} %"
        axes.plot(confidence, right, "o-", color=colour, markersize=4, label=label)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    _finish(axes)
    return figure


def examples(rows: list[Row]) -> Figure | None:
    """The worst successful perturbations at a few points: clean image, scaled perturbation, adversarial image."""
    from matplotlib.figure import Figure

    found = [r for r in some(worst_rows(rows)) if r.examples and r.per_class and Path(r.examples).is_file()][:4]
    if not found:
        return None
    files = [read_tensors(Path(r.examples or ""))[0] for r in found]
    most = min(4, max(len(t["labels"]) for t in files))
    figure = Figure(figsize=(0.2 + 2.4 * most, 1.2 * len(found) + 0.2), layout="constrained")
    grid = figure.subplots(len(found), 3 * most, squeeze=False)
    for line, row, tensors in zip(grid, found, files, strict=True):
        assert row.per_class is not None
        classes = row.per_class.classes
        clean, moved = tensors["clean"], tensors["adversarial"]
        factor = [max(1, int(1 / float(d.abs().max().clamp_min(1e-6)))) for d in moved - clean]
        for cell in line:
            cell.axis("off")
        for i in range(min(most, len(clean))):
            change = ((moved[i] - clean[i]) * factor[i] * 0.5 + 0.5).clamp(0, 1)
            labels = (classes[int(tensors["labels"][i])], f"δ × {factor[i]}", classes[int(tensors["said"][i])])
            for cell, image, text in zip(line[3 * i :], (clean[i], change, moved[i]), labels, strict=False):
                shown = image.permute(1, 2, 0).numpy()
                cell.imshow(shown.squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
                cell.set_title(text, fontsize=6)
        line[0].axis("on")
        line[0].set_xticks([])
        line[0].set_yticks([])
        line[0].set_ylabel(point_label(row), fontsize=7)
    return figure


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
