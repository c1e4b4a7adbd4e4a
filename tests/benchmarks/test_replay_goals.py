"""The goals of the replays are read from rows; rows come again from the committed ladder alone."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def goals(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "pages"))
    return importlib.import_module("replay_goals")


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "results" / "serve-trace.jsonl").read_text().splitlines()]


def window(number: int, clean: float, slo: float = 0.9) -> dict[str, Any]:
    return {
        "window": number,
        "effective_clean": {"goodput": clean, "slack": 0.5, "only safe": 0.4, "only fast": 0.6},
        "slo": {"goodput": slo, "slack": 0.8, "only safe": 0.5, "only fast": 0.9, "oracle": 1.0},
    }


def test_a_goal_is_met_where_every_window_meets_it(goals) -> None:
    assert goals.verdict(1.0, [window(0, 0.61), window(1, 0.595)]) == "met"
    assert goals.verdict(1.0, [window(0, 0.61), window(1, 0.58)]) == "not met (window 1: -2.0 points)"
    assert goals.verdict(1.0, [window(0, 0.61, 0.7)]) == "not met (window 0: 40 % of the gap)"
    # Below a load of 1 nothing is asked of the gap.
    assert goals.verdict(0.8, [window(0, 0.61, 0.7)]) == "met"


def test_the_table_says_of_each_cell_what_the_rows_do(goals) -> None:
    found = goals.windows(rows())
    assert len(found) == 12
    text, claims = goals.goals(rows())
    assert text.count("| met |") == sum(goals.verdict(load, kept) == "met" for (_, load), kept in found.items())
    verdicts = {"met", "not met", "better", "better on average, not in all replays", "not better"}
    assert {c[-1] for c in claims} <= verdicts
    assert all(0 <= r["goodput"] <= r["oracle"] + 0.005 for r in rows() if r["how"] == "shortfall")


@pytest.mark.data
@pytest.mark.parametrize("cell", [("code", 1.5), ("conversation", 1.0), ("poisson", 1.5)])
def test_rows_come_again_from_the_committed_ladder(monkeypatch, real_data: Path, cell: tuple[str, float]) -> None:
    """No model, no measured time of this machine."""
    monkeypatch.setenv("RHEOSTAT_DATA", str(real_data))
    monkeypatch.syspath_prepend(str(ROOT / "measure"))
    simulated = importlib.import_module("serve_simulated")
    kept = {r["policy"]: r for r in rows() if r["how"] == "simulated" and (r["trace"], r["load"]) == cell}
    bench = simulated.Bench(kept["goodput"]["ladder"])
    times = bench.times(*cell, 0, kept["goodput"]["requests"])
    for name, policy in simulated.ways(tuple(bench.ladder), bench.deadline).items():
        if name in ("goodput", "slack", "only fast"):
            found = bench.judged(bench.run(times, bench.made(policy)))
            assert {k: found[k] for k in ("effective_clean", "slo", "late")} == pytest.approx(
                {k: kept[name][k] for k in ("effective_clean", "slo", "late")}, abs=2e-3
            )
