"""A ladder knows its costs: measured times, their order, and a warning where a step buys nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rheostat.serve.costs import Times, from_rows, idle_steps, late_exits, measure, ordered, sizes_up_to


def times(milliseconds: float) -> Times:
    return Times(((1, milliseconds / 1e3), (10, milliseconds / 125)))


def test_times_between_the_measured_sizes() -> None:
    found = Times(((1, 1.0), (4, 2.5), (16, 4.5)))
    assert [found(n) for n in (1, 2, 4, 10, 16)] == pytest.approx([1.0, 1.5, 2.5, 3.5, 4.5])
    assert found(32) == pytest.approx(9.0)
    for bad in ((), ((4, 1.0), (1, 1.0)), ((1, 0.0),), ((0, 1.0),), ((1, float("nan")),)):
        with pytest.raises(ValueError, match=r"must rise|above 0"):
            Times(bad)


def test_every_point_is_measured_at_batch_one_and_at_the_largest() -> None:
    assert sizes_up_to(1) == (1,)
    assert sizes_up_to(64) == (1, 4, 16, 64)
    assert sizes_up_to(40) == (1, 4, 16, 40)
    now, seen = [0.0], []

    def run(name: str, each: float):
        def go(x: np.ndarray) -> np.ndarray:
            seen.append((name, len(x)))
            # The pass that is not timed is the slow one.
            first = seen.count((name, len(x))) == 1
            now[0] += 100.0 if first else each * len(x)
            return x

        return go

    found = measure({"slow": run("slow", 2.0), "fast": run("fast", 1.0)}, (1, 2, 2), 8, clock=lambda: now[0])
    assert found["slow"].measured == ((1, 2.0), (4, 8.0), (8, 16.0))
    assert found["fast"](8) == 8.0
    assert seen[:4] == [("slow", 1), ("fast", 1), ("slow", 1), ("fast", 1)]


def test_a_ladder_is_ordered_by_time_and_keeps_its_first_point() -> None:
    costs = {"safe": times(10), "a": times(2), "b": times(8), "c": times(7.9), "d": times(12)}
    # b and c differ by less than a tenth, so they keep the order they came in.
    assert ordered(("safe", "a", "c", "b"), costs) == ("safe", "c", "b", "a")
    assert ordered(("safe", "b", "c", "a"), costs) == ("safe", "b", "c", "a")
    assert ordered(("a", "safe"), costs) == ("a", "safe")
    assert idle_steps(("safe", "b", "a"), costs) == []
    (text,) = idle_steps(("safe", "b", "c", "a"), costs)
    assert "from b to c saves no time" in text
    assert len(idle_steps(("safe", "d", "a"), costs)) == 1


def test_times_from_rows_of_bench(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"

    def rows(*found: dict[str, object]) -> None:
        path.write_text("".join(json.dumps(r) + "\n" for r in found))

    row = {"artifact": "a", "at": {"width": 1.0}, "form": "folded", "p50_ms": {"1": 2.0, "32": 40.0}}
    points, forms = {"safe": {"width": 1.0}}, {"safe": ("folded", "eager")}
    rows({**row, "form": "eager", "p50_ms": {"1": 9.0}}, row)
    assert from_rows(path, points, artifact="a", forms=forms) == {"safe": Times(((1, 0.002), (32, 0.04)))}
    for other, message in (
        ({"artifact": "b"}, "no rows of this model"),
        ({"at": {"width": 0.5}}, "no times of 'safe'"),
        ({"form": "compiled"}, "as folded or eager"),
        ({"p50_ms": {"1": -1}}, "a row without times"),
        ({"p50_ms": None}, "a row without times"),
    ):
        rows({**row, **other})
        with pytest.raises(ValueError, match=message):
            from_rows(path, points, artifact="a", forms=forms)
    with pytest.raises(ValueError, match="bench FILE --out"):
        from_rows(tmp_path / "none", points, artifact="a", forms=forms)


def test_times_without_early_exits_are_named_with_their_source(tmp_path: Path) -> None:
    late = Times(((1, 0.1),), early=False)
    costs = {"safe": Times(((1, 0.1),)), "here": late, "read": replace(late, file=tmp_path / "bench.jsonl")}
    here, read = late_exits(costs)
    assert here.startswith("here: it is not known which exits images take")
    assert read.startswith(f"read: {tmp_path / 'bench.jsonl'} has times of images that no exit lets leave early")
    assert late_exits({"safe": costs["safe"]}) == []
