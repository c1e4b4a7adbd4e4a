"""Plots of a network with several dials: dozens of curves leave room for the axes, and only some are drawn."""

from __future__ import annotations

import itertools

import pytest
import torch

from rheostat.reports.dial_plots import MOST, along_dial, as_bytes, trade_off
from rheostat.reports.exit_plots import accuracy_against_macs, shares_per_exit
from rheostat.results.row import Row
from support import made_row


@pytest.fixture
def rows() -> list[Row]:
    """Every setting of three dials, 99 rows; costs rise with width and fall with exit."""
    found = []
    for t, width, exit_ in itertools.product((i / 10 for i in range(11)), (0.5, 0.75, 1.0), (0.0, 0.5, 1.0)):
        cost = 100 * width * (1 - exit_ / 2)
        spread = {"mean": cost, "p50": cost, "p99": cost}
        at = {"robustness": t, "width": width, "exit": exit_}
        shares = {"clean": [0.3, 0.7], "attacked": [0.1, 0.9]}
        found.append(made_row(torch.arange(8) < 4, at=at, macs=spread, exit_shares=shares))
    return found


@pytest.mark.parametrize("plot", [trade_off, along_dial, accuracy_against_macs, shares_per_exit])
def test_no_axes_collapse(plot, rows) -> None:
    """Matplotlib warns where a legend leaves no room, and a warning is an error here."""
    figure = plot(rows)
    assert as_bytes(figure, "svg")
    figure.canvas.draw()
    assert figure.axes[0].get_position().height * figure.get_figheight() > 2


def test_the_ends_of_a_curve_state_the_position_of_robustness() -> None:
    rows = [made_row(torch.arange(8) < 4, at={"depth": 3.0, "robustness": t}) for t in (0.0, 0.7)]
    assert [text.get_text() for text in trade_off(rows).axes[0].texts] == ["0", "0.7"]


@pytest.mark.parametrize("plot", [along_dial, accuracy_against_macs])
def test_some_of_many_curves_are_drawn_and_the_title_says_so(plot, rows) -> None:
    axes = plot(rows).axes[0]
    assert axes.get_title().startswith(f"{MOST} of ")
    few = [r for r in rows if r.at["width"] == 1.0 and r.at["exit"] == 0.0]
    assert plot(few[:1]).axes[0].get_title() == ""


def test_the_most_and_the_least_expensive_setting_are_among_them(rows) -> None:
    labels = along_dial(rows).axes[0].get_legend_handles_labels()[1]
    assert any("width = 0.5" in label and "exit = 1" in label for label in labels)
    assert any("width = 1" in label and "exit = 0" in label for label in labels)
