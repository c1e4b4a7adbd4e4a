"""Fixtures of the golden tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from straight import doubles


@pytest.fixture
def double() -> Iterator[None]:
    """float64 throughout, for tests that compare the package with straight-line mathematics."""
    with doubles():
        yield
