"""Shared fixtures: one thread a process, the method × net grid, real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rheostat import data
from rheostat.models.tunable import Tunable
from rheostat.runtime import precision
from support import GRID, make, shorten

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def no_chip_multiplies_bf16() -> Iterator[None]:
    """`device.precision = "auto"` means fp32 in tests on every chip, for they compare numbers.

    Tests of the choice itself replace this again. Of other processes, those that train by a recipe of their own say
    `device.precision=fp32`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "native_bf16", lambda device: False)
        yield


@pytest.fixture(params=GRID, ids=[f"{p}×{n}" for p, n in GRID])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tunable:
    """Every composition on every network family."""
    paper, net = request.param
    shorten(paper, monkeypatch)
    return make(paper, net)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where it is absent."""
    folder = os.environ.get("RHEOSTAT_DATA")
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(folder) if folder else beside
    if not (path / "fashion-mnist").is_dir():
        pytest.skip("real data sets are absent; set RHEOSTAT_DATA")
    return path


@pytest.fixture(scope="session")
def digits() -> tuple[data.Dataset, data.Dataset]:
    """(train, test) of the embedded digits."""
    return data.load("digits")
