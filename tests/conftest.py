"""Shared fixtures: one thread a process, the method × net grid, real data."""

from __future__ import annotations

import os
import subprocess
import sys
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
def real_cifar10(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with CIFAR-10 in a published form; a packed copy is unpacked first; skips where it is absent."""
    folder = real_data / "cifar10"
    if any((folder / inside).is_dir() for inside in ("cifar-10-batches-bin", "cifar-10-batches-py")):
        return real_data
    script = real_data / "unpack_cifar10.py"
    if not script.is_file():
        pytest.skip("CIFAR-10 is absent; set RHEOSTAT_DATA to a folder that has it")
    root = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, str(script), str(root / "cifar10")], check=True, capture_output=True, timeout=300)
    return root


@pytest.fixture(scope="session")
def digits() -> tuple[data.Dataset, data.Dataset]:
    """(train, test) of the embedded digits."""
    return data.load("digits")
