"""A figure for a notebook, from the rows of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rheostat.reports.dial_plots import as_bytes, trade_off
from rheostat.results.labels import worst_rows
from rheostat.results.row import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(rows: Sequence[Row], *, title: str = "") -> Figure:
    """Plot standard against robust accuracy: one mark per point with its 95 % interval, joined along the dial.

    Returns a Matplotlib figure, which a notebook shows; `figure.savefig("curve.png")` writes it. ValueError if there
    is no row under attack.
    """
    if not rows:
        raise ValueError("there is no row to plot")
    if not worst_rows(rows):
        raise ValueError("no row is under attack, so there is no robust accuracy to plot")
    figure = trade_off(list(rows), title=title)
    # Without pyplot, a notebook needs this to show the figure.
    figure.__dict__["_repr_png_"] = lambda: as_bytes(figure, "png")
    return figure
