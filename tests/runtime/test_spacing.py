"""Evenly spaced items keep both ends and the order."""

from __future__ import annotations

import pytest

from rheostat.runtime.spacing import evenly


@pytest.mark.parametrize(
    ("count", "most", "kept"),
    [(3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (5, 2, [0, 4]), (7, 3, [0, 3, 6]), (100, 4, [0, 33, 66, 99])],
)
def test_both_ends_and_evenly_between_them(count: int, most: int, kept: list[int]) -> None:
    assert evenly(range(count), most) == kept
