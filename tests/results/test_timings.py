"""Files of timings that a script fills measurement by measurement."""

from __future__ import annotations

from pathlib import Path

from rheostat.results.timings import merge_timings, read_timings

HERE = {"device": "chip", "cores": 2, "threads": 1}


def timing(name: str, value: float, hardware: dict[str, object] = HERE) -> dict[str, object]:
    return {"name": name, "batch": 1, "value": value, "hardware": hardware}


def test_a_new_timing_takes_the_place_of_its_old_one(tmp_path: Path) -> None:
    file = tmp_path / "times.jsonl"
    merge_timings(file, [timing("a", 1), timing("b", 2)], key=("name", "batch"))
    merge_timings(file, [timing("a", 3), timing("c", 4)], key=("name", "batch"))
    assert [(t["name"], t["value"]) for t in read_timings(file)] == [("a", 3), ("b", 2), ("c", 4)]


def test_a_table_compares_one_machine(tmp_path: Path) -> None:
    file = tmp_path / "times.jsonl"
    merge_timings(file, [timing("a", 1), timing("b", 2)], key=("name",))
    merge_timings(file, [timing("a", 3, HERE | {"threads": 2})], key=("name",))
    assert [(t["name"], t["value"]) for t in read_timings(file)] == [("a", 3)]


def test_no_timing_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "times.jsonl"
    merge_timings(file, [], key=("name",))
    assert not file.exists()
