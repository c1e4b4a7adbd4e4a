"""A queue that is full before any request in it is late: what it refuses is load, and faster points are taken."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from fakes import poisson

from rheostat.serve.controllers import controller
from rheostat.serve.costs import Times
from rheostat.serve.ladder import LATE_FOR, Steps
from rheostat.serve.policy import Policy
from rheostat.serve.scheduling import Full, Line
from rheostat.serve.simulation import Outcome, simulate

COSTS = {"slow": Times(((1, 0.001),)), "fast": Times(((1, 0.00025),))}
MEASURED = {"slow": {"robust_bound": 0.6, "clean_accuracy": 0.9}, "fast": {"robust_bound": 0.4, "clean_accuracy": 0.8}}
KINDS = ("goodput", "slack", "steps")
DEADLINE = 0.2


@dataclass(frozen=True)
class Request:
    arrived: float
    count: int = 1
    point: None = None


def run(kind: str, arrivals: list[float], room: int, least: float | None = 0.0) -> list[Outcome]:
    used = controller(Policy(("slow", "fast"), 1e3 * DEADLINE, least, kind), MEASURED, COSTS)
    return simulate(arrivals, used, lambda point, n: COSTS[point](n), most=16, room=room)


def refused(found: list[Outcome]) -> int:
    return sum(o.point is None for o in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arrivals", [[i / 2000 for i in range(3000)], poisson(2000, 3000, 0)], ids=["even", "poisson"])
def test_load_that_fills_the_queue_reaches_the_faster_point(kind: str, arrivals: list[float]) -> None:
    """All batches ran at the slow point, which carries half of this load, and every other request got a 503."""
    found = run(kind, arrivals, 64)
    assert {o.point for o in found} >= {"slow", "fast"}
    # `steps` waits half a second before it steps down; the others learn the load within about one deadline.
    assert refused(found) < (800 if kind == "steps" else 400)
    assert all(o.took <= DEADLINE for o in found)


@pytest.mark.parametrize("kind", ["goodput", "slack"])
def test_a_full_queue_lowers_the_bound_on_robustness_as_slowly_as_other_load(kind: str) -> None:
    found = run(kind, [i / 2000 for i in range(4000)], 64, None)
    assert min(o.ended for o in found if o.point == "fast") >= LATE_FOR
    assert refused(found) < 1200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [900, 2000, 9000])
def test_a_bound_that_is_never_met_changes_nothing(kind: str, rate: int) -> None:
    """The fast point answers 800 images within a deadline, so those who ask for more are refused as late."""
    arrivals = poisson(rate, 3000, 1)
    assert run(kind, arrivals, 3000 if kind == "steps" else 1000) == run(kind, arrivals, 10**9)


def test_a_full_queue_waits_for_no_more_requests() -> None:
    line = Line[Request](Steps(("slow",), 200.0), most=16, room=2, window=1.0)
    line.offer(Request(0.0), 0.0)
    assert line.starts(0.0) == 1.0
    line.offer(Request(0.0), 0.0)
    assert line.starts(0.0) == 0.0
    with pytest.raises(Full):
        line.offer(Request(0.0), 0.0)
