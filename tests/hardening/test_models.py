"""Model files made to harm: `info`, `evaluate` and `load` refuse each in one line, without its code or its memory."""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path

import pytest
from hostile_files import broken_files
from hostile_models import model_files, parts, written
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rheostat.cli.app import main
from rheostat.models import artifact

LEAST = 79
"""Hostile model files of the trial that this one repeats; there are more of them."""
SLOWEST, LARGEST = 5.0, 2**29
"""Seconds that one file may take, and bytes of memory that all of them may add."""


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models")
    return {**broken_files(folder), **model_files(folder)}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command line ends with; an assertion that there is no other and no traceback."""
    capsys.readouterr()
    begun = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert time.monotonic() - begun < SLOWEST
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("rheostat: ")
    assert said.err[:-1].isprintable()
    assert len(said.err) < 3000
    return said.err


def test_every_hostile_model_is_refused_at_load(files: dict[str, bytes], tmp_path: Path) -> None:
    """On the code before: tracebacks for a third of them, and 36 GB for base_width=1e9."""
    assert len(files) > LEAST
    path, before = tmp_path / "m.safetensors", peak()
    for content in files.values():
        path.write_bytes(content)
        begun = time.monotonic()
        with pytest.raises(ValueError, match=r"m\.safetensors: ") as refusal:
            artifact.load(path)
        assert time.monotonic() - begun < SLOWEST
        assert "allocate" not in str(refusal.value)
    assert peak() - before < LARGEST


@pytest.mark.slow
def test_every_hostile_model_is_refused_in_one_line(
    files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    table: dict[str, Counter[str]],
) -> None:
    monkeypatch.setattr("os.system", lambda command: pytest.fail("code of a model's file ran"))
    path, outcomes = tmp_path / "m.safetensors", table.setdefault("hostile model files", Counter())
    for kind, content in files.items():
        path.write_bytes(content)
        for command in (["info", str(path)], ["evaluate", str(path), "--data", "digits"]):
            said = refused(command, capsys)
            assert str(path) in said, kind
        outcomes["refused in one line, exit 2"] += 1


def test_the_whole_files_that_they_are_made_from_load(tmp_path: Path) -> None:
    for paper in ("oat", "rdi"):
        (tmp_path / "m").write_bytes(written(*parts(tmp_path, paper)))
        assert artifact.load(tmp_path / "m").net.classes == 10


@pytest.mark.slow
def test_damaged_model_files_are_read_or_refused(
    tmp_path: Path, seconds: float, table: dict[str, Counter[str]]
) -> None:
    """Bytes of a whole file changed, cut and doubled; the data's hash finds what the format does not."""
    whole = written(*parts(tmp_path))
    path, outcomes = tmp_path / "m.safetensors", table.setdefault("model file", Counter())
    end, number = time.monotonic() + seconds, 0

    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=4)), max_size=6))
    def once(changes: list[tuple[int, bytes]]) -> None:
        content = bytearray(whole)
        for at, new in changes:
            content[at : at + len(new)] = new
        path.write_bytes(content)
        try:
            artifact.load(path)
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1

    while number == 0 or time.monotonic() < end:
        number += 1
        seed(number)(once)()
