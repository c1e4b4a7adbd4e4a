"""Choosing by goodput: promises first, then worth; more slack never a worse point; the floor and the rate of steps."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from fakes import poisson

from rheostat.serve.controllers import controller, worth
from rheostat.serve.costs import Times
from rheostat.serve.goodput import Goodput
from rheostat.serve.ladder import DOWN_A_MINUTE, DWELL, LATE_FOR
from rheostat.serve.policy import Policy
from rheostat.serve.punctual import Punctual
from rheostat.serve.scheduling import Controller, Load
from rheostat.serve.simulation import Outcome, simulate

DEADLINE = 0.05
LADDER = ("safe", "balanced", "fast")
COSTS = {
    "safe": Times(((1, 0.010), (8, 0.080))),
    "balanced": Times(((1, 0.005), (8, 0.040))),
    "fast": Times(((1, 0.002), (8, 0.016))),
}
MEASURED = {
    "safe": {"robust_bound": 0.6, "clean_accuracy": 0.9},
    "balanced": {"robust_bound": 0.5, "clean_accuracy": 0.85},
    "fast": {"robust_bound": 0.4, "clean_accuracy": 0.7},
}


@dataclass(frozen=True)
class Job:
    arrived: float
    count: int = 1
    point: None = None


def made(least: float | None = 0.0, ladder: tuple[str, ...] = LADDER, kind: str = "goodput") -> Punctual:
    found = controller(Policy(ladder, 1e3 * DEADLINE, least, kind), MEASURED, COSTS)
    assert isinstance(found, Punctual)
    return found


def bursts(seed: int) -> list[float]:
    """Calm, and ten times a crowd of 12 to 40 within 20 ms."""
    draw = random.Random(seed)
    calm = poisson(30, 300, seed)
    crowds = [t + draw.random() * 0.02 for t in range(10) for _ in range(draw.randint(12, 40))]
    return sorted(calm + crowds)


def run(arrivals: list[float], used: Controller) -> list[Outcome]:
    return simulate(arrivals, used, lambda point, n: COSTS[point](n), most=8)


def value(found: list[Outcome]) -> float:
    timely = [o for o in found if o.point is not None and o.took <= DEADLINE + 1e-9]
    return sum(MEASURED[o.point]["clean_accuracy"] for o in timely if o.point) / len(found)


@pytest.mark.parametrize("seed", range(2))
def test_whoever_is_admitted_is_answered_in_time(seed: int) -> None:
    for arrivals in (poisson(80, 600, seed), poisson(300, 600, seed), poisson(900, 600, seed), bursts(seed)):
        found = run(arrivals, made())
        assert all(o.took <= DEADLINE + 1e-9 for o in found if o.point is not None)
        assert all(o.ended == o.arrived for o in found if o.point is None)


@pytest.mark.parametrize("ahead", [0.0, 100.0, 400.0, 2000.0])
def test_more_slack_never_means_a_less_preferred_point(ahead: float) -> None:
    places = []
    for k in range(26):
        used = made()
        used.rate, used.counted = ahead, 1.0
        places.append(LADDER.index(used.decide(Load(1.0, [Job(1.0 - k * DEADLINE / 25)], 8, 1.0)).point))
    assert places == sorted(places)
    assert places[-1] == 2


def test_calm_takes_the_preferred_point_and_a_flood_the_fastest() -> None:
    for rate, point in ((0.0, "safe"), (50.0, "safe"), (1000.0, "fast"), (5000.0, "fast")):
        used = made()
        used.rate, used.counted = rate, 1.0
        assert used.decide(Load(1.0, [Job(1.0)], 8, 1.0)).point == point


def test_a_burst_costs_less_than_by_slack_or_at_any_one_point() -> None:
    """Mean over seeds: what the controller is for."""
    totals = dict.fromkeys(("goodput", "slack", *LADDER), 0.0)
    for seed in range(6):
        arrivals = bursts(seed)
        for name in totals:
            used = made(kind=name) if name not in LADDER else made(ladder=(name,))
            totals[name] += value(run(arrivals, used)) / 6
    assert max(totals, key=lambda n: totals[n]) == "goodput"


def test_an_answer_is_never_worth_more_than_a_preferred_points() -> None:
    """Of a ladder whose clean accuracy rises as its robustness falls, calm takes the preferred point all the same."""
    measured = {
        "safe": {"robust_bound": 0.5, "clean_accuracy": 0.7},
        "fast": {"robust_bound": 0.4, "clean_accuracy": 0.95},
    }
    used = controller(Policy(("safe", "fast"), 1e3 * DEADLINE, 0.0), measured, COSTS)
    assert isinstance(used, Goodput)
    assert used.worth["fast"] == used.worth["safe"]
    assert {o.point for o in run(poisson(10, 200, 0), used)} == {"safe"}


def test_what_an_answer_is_worth_is_measured() -> None:
    assert worth(("safe", "fast"), MEASURED) == {"safe": pytest.approx(0.75), "fast": pytest.approx(0.55)}
    assert worth(("a", "b"), {"a": {"robust_bound": 0.5}, "b": {"robust_bound": 0.0}}) == {"a": 0.5, "b": 0.0}
    assert worth(("a", "b"), {"a": {}, "b": {}}) == {"a": 1.0, "b": 1.0}


def test_a_point_worth_nothing_still_keeps_promises() -> None:
    measured = {"safe": {"robust_bound": 0.5}, "fast": {"robust_bound": 0.0}}
    used = controller(Policy(("safe", "fast"), 1e3 * DEADLINE, 0.0), measured, COSTS)
    assert isinstance(used, Goodput)
    found = run(bursts(1), used)
    assert all(o.took <= DEADLINE + 1e-9 for o in found if o.point is not None)
    assert any(o.point == "fast" for o in found)


@pytest.mark.parametrize("seed", [0])
def test_never_below_the_floor_and_below_the_free_points_seldom(seed: int) -> None:
    found = run(bursts(seed) + [10 + t for t in poisson(900, 2000, seed)], made(least=0.45))
    assert {o.point for o in found} <= {"safe", "balanced", None}
    used = made(least=None)
    waves = [10 * k + t for k in range(6) for t in poisson(400, 1200, seed)]
    found = run(waves, used)
    first = {p: min((o.ended for o in found if o.point == p), default=None) for p in ("balanced", "fast")}
    assert first["balanced"] is not None
    assert first["balanced"] >= LATE_FOR
    if first["fast"] is not None:
        assert first["fast"] >= first["balanced"] + DWELL - DEADLINE
    assert 1 <= len(used.guard.downs) <= DOWN_A_MINUTE


def test_a_tiny_trace_is_answered_as_ever() -> None:
    """Golden: a pair, a crowd, a straggler."""
    found = run([0.0, 0.001, *(0.1 + 0.001 * i for i in range(14)), 0.4], made())
    assert "".join("-" if o.point is None else o.point[0] for o in found) == GOLDEN


GOLDEN = "sssffffffffffbbbs"


@pytest.mark.parametrize("kind", ["goodput", "slack"])
def test_the_most_urgent_request_may_have_come_last(kind: str) -> None:
    """A request that waited for the event loop is older than some before it; no batch may grow past its deadline."""
    used = made(kind=kind)
    waiting = [Job(0.0), Job(0.0), Job(-0.035), *[Job(0.0)] * 5]  # eight at `fast` take 16 ms, and 15 ms are left
    decision = used.decide(Load(0.0, waiting, 8, 0.0))
    assert COSTS[decision.point](decision.images) <= 0.015 + 1e-9
    assert decision.images >= 3
