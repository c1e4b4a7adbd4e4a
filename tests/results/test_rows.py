"""Rows, their bits and their files: one schema, version 1 read through a migration, nothing lost by two writers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rheostat.models import artifact
from rheostat.points.point import Point
from rheostat.results import schema
from rheostat.results.bits import bits_file, read_bits
from rheostat.results.curves import curve_names, curves
from rheostat.results.labels import point_label
from rheostat.results.rows import add_rows, parse_row, read_rows
from rheostat.results.timings import holds_timings, read_timings, write_timings
from rheostat.runtime.seeding import seed_of
from support import made_row

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.jsonl"))
OLD: dict[str, Any] = {
    "run": "a",
    "artifact": "0123",
    "composition": None,
    "settings": {"dual.between": None},
    "train": {"epochs": 1, "images": None, "attack": None, "seed": 0, "robustness": None, "seconds": 1.5},
    "net": {"name": "resnet", "depth": 8},
    "dataset": "digits",
    "split": "test",
    "at": {"robustness": 0.5},
    "rule": None,
    "tier": "quick",
    "knowledge": "known",
    "n": 3,
    "seed": 0,
    "reported": None,
    "attack": {"name": "worst", "of": ["warm", "pgd20"], "norm": "linf", "eps": 0.1},
    "cumulative": False,
    "clean_accuracy": 1.0,
    "robust_accuracy": 1 / 3,
    "interval": {"level": 0.95, "clean": [0.3, 1.0], "robust": [0.01, 0.9]},
    "params": 5,
    "nonzeros": 5,
    "macs": {"mean": 9, "p50": 9, "p99": 9},
    "macs_nonzero": None,
    "exit_shares": None,
    "latency_ms": None,
    "seconds": 0.1,
    "queries": 7,
    "versions": {"torch": "2"},
    "hardware": {"device": "cpu", "cores": 2, "threads": 1},
    "flags": ["transfer-beats-known"],
    "checks": [{"flag": "transfer-beats-known", "gain": 0.1, "low": 0.05, "high": 0.2, "made at": {"robustness": 0.0}}],
    "per_class": {"classes": ["0", "1"], "clean": [1.0, None], "robust": [0.5, None]},
    "eps_curve": None,
    "bits": "bits/old.npy",
}
KEYS = ["run", "artifact", "dataset", "split", "at", "rule", "attack", "tier", "cumulative", "knowledge", "n", "seed"]


def identity_of_version_1(row: dict[str, Any]) -> str:
    return f"{seed_of(json.dumps([row.get(k) for k in KEYS], sort_keys=True)):016x}"


def test_a_row_of_version_1_is_read_and_keeps_its_identity() -> None:
    row = parse_row(OLD)
    assert row.identity == identity_of_version_1(OLD)
    assert (row.version, row.precision, row.tier_version, row.dial) == (3, "fp32", 1, "t")
    assert row.checks is not None
    assert row.checks[0].figures == {"gain": 0.1, "low": 0.05, "high": 0.2}
    assert row.checks[0].made_at == {"robustness": 0.0}
    assert row.per_class is not None
    assert row.per_class.clean == [1.0, None]
    written = json.loads(json.dumps(row.plain()))
    assert parse_row(written) == row
    assert parse_row({**written, "version": 2}) == row  # version 3 only adds fields
    both = parse_row({**written, "robust_accuracy_returned": 0.5, "robust_accuracy_rounded": 0.4, "tier_version": 2})
    assert parse_row(json.loads(json.dumps(both.plain()))) == both
    assert not {"reported", "latency_ms", "exit_shares", "eps_curve", "macs_nonzero"} & set(written)
    assert point_label(row) == "t = 0.5"
    assert point_label(parse_row({**OLD, "rule": "at-0"})) == "λ = 0.5"
    warm = {"name": "warm", "from": ["robustness=0"], "norm": "linf", "eps": 0.1, "eot": 1}
    assert parse_row({**OLD, "attack": warm}).identity == identity_of_version_1({**OLD, "attack": warm})
    chosen = {"name": "chosen", "of": [{"robustness": 0.0}], "norm": "linf", "eps": 0.1}
    assert parse_row({**OLD, "attack": chosen}).identity == identity_of_version_1({**OLD, "attack": chosen})
    # Another choice of attacks under one tier's name is another measurement.
    assert row.model_copy(update={"tier_version": 2}).identity != row.identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 4}, "line 1: row of version 4, this package reads versions 1 to 3"),
        ({"version": 2, "checks": None}, "line 1: not a row; reported: Extra inputs"),
        ({"n": "many"}, "line 1: not a row; n: "),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**OLD, **changes}) + "\n")
    with pytest.raises(ValueError, match=message):
        read_rows(file)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.bits.safetensors"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"rows\.bits\.safetensors: not a file of rows; it is not UTF-8"):
        read_rows(file)


def test_rows_and_timings_are_not_mixed_up(tmp_path: Path) -> None:
    rows, timings = tmp_path / "rows.jsonl", tmp_path / "speed.jsonl"
    add_rows(rows, [made_row()])
    write_timings(timings, [{"name": "step", "ratio": 1.5}])
    assert (holds_timings(rows), holds_timings(timings)) == (False, True)
    assert read_timings(timings) == [{"name": "step", "ratio": 1.5}]
    with pytest.raises(ValueError, match="not a row of an evaluation"):
        read_rows(timings)
    with pytest.raises(ValueError, match="a row of an evaluation, not a timing"):
        read_timings(rows)
    assert read_rows(tmp_path / "none.jsonl") == []


def test_bits_are_one_file_and_loose_ones_are_still_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    (tmp_path / "bits").mkdir()
    loose = torch.tensor([[True, True, True], [True, False, False]])
    np.save(tmp_path / "bits" / "old.npy", np.packbits(loose.numpy(), axis=1))
    file.write_text(json.dumps(OLD) + "\n")
    (old,) = read_rows(file)
    assert [b.tolist() for b in read_bits(file).of(old)] == loose.tolist()
    clean, robust = torch.arange(11) < 9, torch.arange(11) < 4
    new = made_row(clean, robust)
    add_rows(file, [new], {new.identity: (clean, robust)})
    found = read_bits(file)
    assert all(map(torch.equal, found.of(new), (clean, robust)))
    assert [b.tolist() for b in found.of(read_rows(file)[0])] == loose.tolist()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == [
        "bits",
        "rows.bits.safetensors",
        "rows.jsonl",
    ]
    # A row that is measured again takes its own place and its new bits; one that is dropped leaves none.
    add_rows(file, [new], {new.identity: (clean, clean)}, drop=[old.identity])
    assert len(read_rows(file)) == 1
    assert torch.equal(read_bits(file).of(new)[1], clean)
    with pytest.raises(ValueError, match="holds no bits of row"):
        read_bits(file).of(made_row(run="other"))


def test_every_committed_row_is_read_with_its_bits() -> None:
    files = [f for f in RESULTS if not holds_timings(f)]
    assert len(files) > 10
    for file in files:
        bits = read_bits(file)
        assert bits_file(file).is_file()
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for row, line in zip(read_rows(file), lines, strict=True):
            assert row.identity in bits.packed
            assert line.get("version", 1) > 1 or row.identity == identity_of_version_1(line)
            clean, robust = bits.of(row)
            if row.draws is None:
                assert float(clean.double().mean()) == pytest.approx(row.clean_accuracy, abs=1e-12)
                assert float(robust.double().mean()) == pytest.approx(row.robust_accuracy, abs=1e-12)


WRITER = """
import sys, torch
sys.path.insert(0, sys.argv[3])
from support import made_row
from rheostat.results.rows import add_rows
for i in range(40):
    bits = torch.arange(8) < i % 8
    row = made_row(bits, bits, run=sys.argv[2], at={"robustness": i / 40})
    add_rows(sys.argv[1], [row], {row.identity: (bits, bits)})
"""


def test_two_processes_that_add_rows_lose_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    line = [sys.executable, "-c", WRITER, str(file)]
    both = [subprocess.Popen([*line, name, str(ROOT / "tests")]) for name in ("a", "b")]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    rows = read_rows(file)
    assert len(rows) == 80
    found = read_bits(file)
    for row in rows:
        assert float(found.of(row)[0].double().mean()) == row.clean_accuracy


NAMER = """
import sys, time
from rheostat.models import artifact
from rheostat.points.point import Point
write = artifact.write_tensors
artifact.write_tensors = lambda *given: (time.sleep(0.1), write(*given))  # long enough for the other to read
for i in range(6):
    artifact.name_point(sys.argv[1], f"{sys.argv[2]}{i}", Point(robustness=i / 6), {})
"""


def test_two_processes_that_name_points_lose_none(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(artifact.packaged()["oat-digits"].read_bytes())
    both = [subprocess.Popen([sys.executable, "-c", NAMER, str(file), name]) for name in ("a", "b")]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    points = artifact.load(file).points
    assert set(points) == {f"{name}{i}" for name in "ab" for i in range(6)}
    assert points["a3"] == Point(robustness=0.5)


def test_a_curve_is_rows_that_agree_in_all_but_the_point() -> None:
    base = [made_row(at={"robustness": v}) for v in (1.0, 0.0)]
    attack = {"name": "worst", "of": ["pgd20", "square"], "norm": "linf", "eps": 0.1}
    others = [
        made_row(at={"robustness": 0.5}, split="calibrate-choose"),
        made_row(torch.ones(9, dtype=torch.bool), at={"robustness": 0.5}),
        made_row(at={"robustness": 0.5}, tier="standard", attack=attack),
        made_row(at={"robustness": 0.5}, attack={**attack, "of": ["pgd20"], "eps": 0.2}),
        made_row(at={"robustness": 0.5}, artifact="b"),
        made_row(at={"robustness": 0.5}, rule="at-0"),
        made_row(at={"robustness": 0.5}, run="y"),
    ]
    lines = list(curves([*base, *others]).values())
    assert [r.at["robustness"] for r in lines[0]] == [0.0, 1.0]
    assert [len(line) for line in lines[1:]] == [1] * len(others)
    names = curve_names(lines)
    assert len(set(names)) == len(names)
    assert curve_names(lines[:1]) == ["x"]
    stated = {**base[0].attack.plain(), "budgets": [{"name": "pgd20", "step_size": 0.001}]}
    apart = list(curves([base[0], made_row(at={"robustness": 1.0}, attack=stated)]).values())
    assert curve_names(apart) == ["x, pgd20, linf 0.1", "x, pgd20 (step_size 0.001), linf 0.1"]
    assert curve_names([lines[0], lines[1]]) == ["x, test", "x, calibrate-choose"]
    wide = [made_row(at={"robustness": v, "width": w}) for w in (0.5, 1.0) for v in (0.0, 1.0)]
    assert len(curves(wide)) == 1
    narrow = list(curves(wide, along="robustness").values())
    assert curve_names(narrow) == ["x, width = 0.5", "x, width = 1"]


def test_a_picture_joins_no_rows_of_different_attacks_or_splits() -> None:
    from rheostat.reports.dial_plots import along_dial, trade_off

    rows = [made_row(at={"robustness": v}) for v in (0.0, 1.0)]
    rows += [made_row(at={"robustness": v}, split="calibrate-choose") for v in (0.0, 0.5, 1.0)]
    drawn = [len(line.get_xdata()) for line in trade_off(rows).axes[0].lines if line.get_linestyle() == "-"]
    assert sorted(n for n in drawn if n) == [2, 3]
    assert sorted(len(line.get_xdata()) for line in along_dial(rows).axes[0].lines) == [2, 2, 3, 3]


def test_the_page_of_the_schema_is_made_from_it() -> None:
    assert (ROOT / "docs" / "row.md").read_text() == schema.page()
