"""What `make bench` says at its end: each ratio beside its goal and the committed row, and what moved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEASURE = Path(__file__).parents[2] / "benchmarks" / "measure"


@pytest.fixture(scope="module")
def compare() -> Any:
    sys.path.insert(0, str(MEASURE))
    try:
        import compare as found
    finally:
        sys.path.remove(str(MEASURE))
    return found


def ratio(median: float, *, spread: float = 0.1, **more: object) -> dict[str, Any]:
    quartiles = {"median": median, "low": median - spread, "high": median + spread}
    return {"name": "step", "a": "oat", "b": "pgd-at", "ratio": quartiles, "hardware": {"device": "x"}, **more}


@pytest.mark.parametrize(
    ("now", "before", "verdict"),
    [
        (ratio(1.0, bar=1.1), ratio(1.05), "met"),
        (ratio(1.2, bar=1.1), ratio(1.25), "not met"),
        (ratio(1.2, bar_at_least=1.5), ratio(1.2), "not met"),
        (ratio(1.0), ratio(1.05), ""),
        (ratio(1.0), ratio(1.5), "moved by -33.3 %, more than the spread"),
        # One wide row is enough for no verdict: either median inside the other's quartiles.
        (ratio(1.0), ratio(1.5, spread=0.6), ""),
        (ratio(1.0, spread=0.6), ratio(1.5), ""),
        (ratio(2.0, bar=1.1), ratio(1.0), "not met; moved by +100.0 %, more than the spread"),
        (
            ratio(2.0, hardware={"device": "y"}),
            ratio(1.0),
            "moved by +100.0 %, more than the spread; the committed row is of other hardware or threads",
        ),
        ({"name": "n", "of": "oat", "value": 12}, {"name": "n", "of": "oat", "value": 12}, ""),
        ({"name": "n", "of": "oat", "value": 12}, {"name": "n", "of": "oat", "value": 10}, "moved by +2"),
    ],
)
def test_a_figure_against_its_goal_and_the_committed_row(compare: Any, now: Any, before: Any, verdict: str) -> None:
    (line,) = compare.compare([now], [before])
    assert line.verdict == verdict
    assert line.moved == ("moved" in verdict)


def test_rows_are_paired_by_what_they_measure(compare: Any) -> None:
    lines = compare.compare([ratio(1.0, batch=1), ratio(1.0, a="dual")], [ratio(5.0, batch=32), ratio(1.0, a="dual")])
    assert [(x.what, x.verdict) for x in lines] == [
        ("step, oat, pgd-at, 1", "new"),
        ("step, dual, pgd-at", ""),
        ("step, oat, pgd-at, 32", "not measured now"),
    ]
    shown = compare.text(lines)
    assert shown.splitlines()[-1] == "0 of 3 figures moved by more than the spread"
    assert "1.000 [0.900, 1.100]" in shown


def test_the_last_commit_is_what_it_is_compared_with(compare: Any, tmp_path: Path) -> None:
    file = tmp_path / "speed.jsonl"
    file.write_text(json.dumps(ratio(1.0)) + "\n")
    with pytest.raises(RuntimeError, match="lies in no git repository"):
        compare.committed(file)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *line], cwd=tmp_path, check=True)
    file.write_text(json.dumps(ratio(2.0)) + "\n")
    assert compare.committed(file) == [ratio(1.0)]
    assert compare.committed(tmp_path / "costs.jsonl") == []
    script = [sys.executable, str(MEASURE / "compare.py"), str(file)]
    shown = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    assert "moved by +100.0 %" in shown


def test_the_committed_rows_are_read(compare: Any) -> None:
    """Every ratio of the files that `make bench` writes has a key of its own; against themselves none moved."""
    for file in compare.FILES:
        rows = [row for row in compare.read_timings(file) if compare.comparable(row)]
        assert len({compare.key_of(row) for row in rows}) == len(rows) > 10
        assert not any(line.moved for line in compare.compare(rows, rows))
