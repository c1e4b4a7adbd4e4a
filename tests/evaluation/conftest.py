"""The model that most tests of evaluations measure."""

from __future__ import annotations

import pytest

import rheostat
from rheostat.models.tunable import Tunable


@pytest.fixture(scope="module")
def model() -> Tunable:
    return rheostat.load("oat-digits")
