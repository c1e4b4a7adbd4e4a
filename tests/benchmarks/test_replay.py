"""The replay of production arrivals: the oracle is one, the judge counts what is right and in time, times are kept."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rheostat.serve.controllers import controller
from rheostat.serve.costs import Times
from rheostat.serve.policy import Policy
from rheostat.serve.simulation import Outcome, simulate

MEASURE = Path(__file__).parents[2] / "benchmarks" / "measure"
COSTS = {"safe": Times(((1, 1.0), (4, 3.0))), "fast": Times(((1, 0.4), (4, 1.3)))}
VALUE = {"safe": 0.9, "fast": 0.7}
DEADLINE = 2.5


@pytest.fixture
def load(monkeypatch):
    """Imports a script of benchmarks/measure."""
    monkeypatch.syspath_prepend(str(MEASURE))

    def imported(name: str) -> ModuleType:
        import importlib

        return importlib.import_module(name)

    return imported


def seconds(point: str, count: int) -> float:
    return COSTS[point](count)


def worth(outcomes: list[Outcome]) -> float:
    return sum(VALUE[o.point] for o in outcomes if o.point is not None and o.took <= DEADLINE + 1e-9)


def every_schedule(arrivals: list[float]) -> float:
    """The best of all: each request refused or answered at a point, and each way to cut those into batches."""
    best = 0.0
    for points in itertools.product((None, *VALUE), repeat=len(arrivals)):
        kept = [(t, p) for t, p in zip(arrivals, points, strict=True) if p is not None]
        for cuts in itertools.product((False, True), repeat=max(0, len(kept) - 1)):
            free, gained, start, good = 0.0, 0.0, 0, True
            for i in range(len(kept)):
                if i + 1 < len(kept) and not cuts[i] and kept[i + 1][1] == kept[i][1]:
                    continue
                batch = kept[start : i + 1]
                free = max(free, batch[-1][0]) + seconds(str(batch[0][1]), len(batch))
                good &= len(batch) <= 4 and free <= batch[0][0] + DEADLINE
                gained += sum(VALUE[str(p)] for _, p in batch)
                start = i + 1
            if good:
                best = max(best, gained)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_oracle_finds_the_best_schedule(load, seed: int) -> None:
    draw = random.Random(seed)
    arrivals = list(itertools.accumulate(draw.expovariate(2.0) for _ in range(6)))
    found = load("serve_oracle").oracle(arrivals, VALUE, seconds, DEADLINE, most=4)
    assert [o.arrived for o in found] == arrivals
    assert all(o.point is None or o.took <= DEADLINE + 1e-9 for o in found)
    assert worth(found) == pytest.approx(every_schedule(arrivals))


def test_no_controller_beats_the_oracle(load) -> None:
    measured = {"safe": {"robust_bound": 0.5}, "fast": {"robust_bound": 0.5}}
    for rate in (0.8, 1.5, 3.0):
        arrivals = load("serve_arrivals").arrivals("poisson", rate, 300)
        best = worth(load("serve_oracle").oracle(arrivals, VALUE, seconds, DEADLINE, most=4))
        for ladder in (("safe", "fast"), ("safe",), ("fast",)):
            for kind in ("goodput", "slack", "steps"):
                used = controller(Policy(ladder, 1e3 * DEADLINE, 0.0, kind), measured, COSTS)
                assert worth(simulate(arrivals, used, seconds, most=4)) <= best + 1e-9


def test_an_answer_counts_where_it_is_right_and_in_time(load) -> None:
    judging = load("serve_judging")
    outcomes = [
        Outcome(0.0, 1.0, "safe"),  # right
        Outcome(1.0, 2.0, "safe"),  # wrong
        Outcome(2.0, 6.0, "fast"),  # right and late
        Outcome(3.0, 3.0, None),  # refused
        Outcome(4.0, 8.0, "fast"),  # attacked, late
        Outcome(7.0, 10.0, "fast"),  # attacked, half of it right
    ]
    requests = judging.Requests(np.array([[0, 0], [1, 1], [0, 0], [0, 0], [0, 0], [0, 1]]), np.arange(6) >= 4)
    clean = {n: np.array([True, False]) for n in VALUE}
    attacked = {"safe": np.array([False, False]), "fast": np.array([True, False])}
    right = judging.correct(outcomes, requests, clean, attacked)
    assert right.tolist() == [1, 0, 1, 0, 1, 0.5]
    found = judging.judged(outcomes, right, requests.attacked, 3.5)
    assert found["effective_clean"] == 0.25
    assert found["effective_attacked"] == 0.25
    assert (found["slo"], found["refused"], found["late"]) == pytest.approx((0.5, 1 / 6, 1 / 3))
    assert found["goodput"] == pytest.approx(1.5 / 10)
    assert found["time_at"] == pytest.approx({"safe": 0.2, "fast": 0.8})


def test_poisson_arrivals_have_the_rate_asked_for(load) -> None:
    found = load("serve_arrivals").arrivals("poisson", 50.0, 2000)
    assert len(found) == 2000
    assert found == sorted(found)
    assert found[-1] == pytest.approx(40, rel=0.01)


@pytest.mark.data
@pytest.mark.parametrize("name", ["code", "conversation"])
def test_a_trace_keeps_its_shape(load, real_data: Path, monkeypatch, name: str) -> None:
    monkeypatch.setenv("RHEOSTAT_DATA", str(real_data))
    module = load("serve_arrivals")
    found = np.diff(module.arrivals(name, 100.0, 3000))
    raw = np.diff(np.loadtxt(real_data / "traces" / module.TRACES[name])[:3000])
    assert found.sum() == pytest.approx(30, rel=0.05)
    assert found == pytest.approx(raw * found.sum() / raw.sum(), rel=1e-6, abs=1e-9)
