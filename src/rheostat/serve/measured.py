"""What the playground knows of a model beyond one image: the measured numbers nearest to a point, and their curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rheostat.models.zoo import Shipped
from rheostat.points.point import Point
from rheostat.results.curves import curves
from rheostat.results.labels import eps_label, percent, point_label, worst_rows
from rheostat.results.row import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """The accuracies of one point, from a row or from the index of models that ship; shares in [0, 1]."""

    at: dict[str, float]
    label: str
    clean: float
    robust: float
    clean_interval: Interval
    robust_interval: Interval
    under: str
    """Attacks, eps, split and n as text."""
    n: int

    @staticmethod
    def of_row(row: Row) -> Measured:
        """The numbers of a row."""
        under = f"{', '.join(row.attack.names)} (eps {eps_label(row.attack.eps)}, {row.split}, n {row.n})"
        return Measured(
            dict(row.at),
            point_label(row),
            row.clean_accuracy,
            row.robust_accuracy,
            row.interval.clean,
            row.interval.robust,
            under,
            row.n,
        )


def from_rows(rows: list[Row]) -> list[Measured]:
    """The measured curve of the model itself with the most points and images; empty if nothing was measured."""
    lines = curves(r for r in worst_rows(rows) if r.rule is None and r.precision == "fp32").values()
    line = max(lines, key=lambda line: (len(line), line[0].n), default=[])
    return [Measured.of_row(row) for row in line]


def from_index(shipped: Shipped | None) -> list[Measured]:
    """The figures of a model that ships, of the tier with the most points; empty for any other model."""
    if shipped is None:
        return []
    lines: dict[tuple[str, str, int], list[Measured]] = {}
    for f in shipped.figures:
        under = f"{', '.join(f.attacks)} (eps {eps_label(shipped.eps)}, {f.split}, n {f.n})"
        found = Measured(
            {"robustness": f.robustness},
            f"t = {f.robustness:g}",
            f.clean,
            f.robust,
            f.clean_interval,
            f.robust_interval,
            under,
            f.n,
        )
        lines.setdefault((f.tier, f.split, f.n), []).append(found)
    return max(lines.values(), key=lambda line: (len(line), line[0].n), default=[])


def nearest(line: list[Measured], point: Point) -> Measured:
    """The measured point that is nearest."""
    numbers = point.numbers()
    return min(line, key=lambda m: sum(abs(v - numbers.get(k, v)) for k, v in m.at.items()))


def nearest_text(line: list[Measured], point: Point) -> str:
    """The numbers measured on many images at the nearest point, because a single image proves nothing."""
    if not line:
        return "No measurements of this model were found; `rheostat evaluate` makes them."
    found = nearest(line, point)
    return (
        f"Nearest measured point, {found.label}: SA {percent(found.clean, found.clean_interval)} %, RA "
        f"{percent(found.robust, found.robust_interval)} % under {found.under}."
    )


def curve(line: list[Measured], point: Point) -> Figure | None:
    """SA against RA with 95 % intervals, and a ring around the measured point nearest to the current one."""
    if not line:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    x, y = [100 * m.robust for m in line], [100 * m.clean for m in line]
    spread = [
        [[100 * abs(edges[side] - value) for value, edges in kind] for side in (0, 1)]
        for kind in ([(m.robust, m.robust_interval) for m in line], [(m.clean, m.clean_interval) for m in line])
    ]
    axes.errorbar(x, y, xerr=spread[0], yerr=spread[1], color="#0072B2", marker="o", elinewidth=0.6, capsize=2)
    for place in {0, len(line) - 1}:
        axes.annotate(line[place].label, (x[place], y[place]), xytext=(8, 8), textcoords="offset points", fontsize=9)
    near = nearest(line, point)
    ring = axes.plot(100 * near.robust, 100 * near.clean, "o", color="black", markersize=16)[0]
    ring.set(fillstyle="none", markeredgewidth=2)
    axes.margins(0.12)
    axes.set_title("measured on many images; the ring is the nearest point", fontsize=10)
    axes.set_xlabel("robust accuracy (RA), %")
    axes.set_ylabel("standard accuracy (SA), %")
    axes.grid(alpha=0.25)
    return figure
