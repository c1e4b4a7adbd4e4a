"""Plots of multi-exit points: a line is of one attack, and a cost under attack is of every image."""

from __future__ import annotations

from typing import Any

import torch

from rheostat.reports.exit_plots import accuracy_against_macs
from rheostat.results.row import Row
from support import made_row


def point(exit_: float, **changes: Any) -> Row:
    cost = {"macs": 100 - 50 * exit_, "macs_attacked": 110.0}
    spread = {name: {"mean": value, "p50": value, "p99": value} for name, value in cost.items()}
    return made_row(torch.arange(8) < 4, at={"exit": exit_}, **{**spread, "tier_version": 2, **changes})


def lengths(rows: list[Row]) -> dict[str, list[int]]:
    """How many points the lines have, by their marks."""
    found: dict[str, list[int]] = {}
    for line in accuracy_against_macs(rows).axes[0].lines:
        found.setdefault(str(line.get_marker()), []).append(len(line.get_xdata()))
    return found


def test_lines_join_rows_of_one_attack_and_split() -> None:
    rows = [point(0.0), point(1.0), point(0.5, split="calibrate-choose")]
    rows.append(point(0.5, tier="standard", attack={"name": "worst", "of": ["apgd-ce"], "norm": "linf", "eps": 0.1}))
    assert lengths(rows)["o"] == [2, 1, 1]


def test_costs_that_left_images_out_are_not_drawn() -> None:
    """Of version 1 of the tiers: over the images that earlier attacks had left, a net looked cheaper than it is."""
    assert lengths([point(0.0), point(1.0)])["x"] == [2]
    assert lengths([point(0.0, tier_version=1), point(1.0, tier_version=1)])["x"] == [0]
