"""Files written whole, and locks among threads and processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rheostat.cli.app import main
from rheostat.results.rows import read_rows
from rheostat.runtime.files import locked, write_bytes


def test_threads_write_one_file_and_it_is_always_whole(tmp_path: Path) -> None:
    """A temporary name that holds the process alone collides: 62 of 300 writes raised."""
    path = tmp_path / "f"
    write_bytes(path, b"start" * 1000)

    def write(number: int) -> None:
        for _ in range(50):
            content = path.read_bytes()
            assert content == content[:5] * 1000
            write_bytes(path, bytes([97 + number]) * 5000)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write, number) for number in range(8)]:
            done.result()
    assert len(set(path.read_bytes())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


COUNT = """
import sys
from pathlib import Path
from rheostat.runtime.files import locked, write_text
path = Path(sys.argv[1])
for _ in range(50):
    with locked(path):
        write_text(path, str(int(path.read_text()) + 1))
"""


def test_two_processes_that_read_change_and_write_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    line = [sys.executable, "-c", COUNT, str(path)]
    others = [subprocess.Popen(line) for _ in range(2)]
    assert [other.wait() for other in others] == [0, 0]
    assert path.read_text() == "100"


def test_threads_take_turns_at_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def count() -> None:
        for _ in range(50):
            with locked(path):
                path.write_text(str(int(path.read_text()) + 1))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count) for _ in range(4)]:
            done.result()
    assert path.read_text() == "200"


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path, monkeypatch, capsys) -> None:
    """Only opening a file names it: a write that fails says ENOSPC alone."""

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as found:
        write_bytes(tmp_path / "m.bin", b"x")
    assert found.value.filename == str(tmp_path / "m.bin")
    with pytest.raises(SystemExit) as stopped:
        main(["card", "oat-digits", "--out", str(tmp_path / "card.md")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"rheostat: {tmp_path / 'card.md'}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_a_line_of_rows_that_is_nested_or_endless_is_refused(tmp_path: Path) -> None:
    for line in ("[" * 100_000, '{"tier": ' + "9" * 5000 + "}"):
        (tmp_path / "rows.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match="line 1: not JSON"):
            read_rows(tmp_path / "rows.jsonl")
