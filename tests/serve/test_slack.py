"""Choosing by slack, in simulated time: in time where that is possible, never below the floor, refused early."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from fakes import poisson

from rheostat.serve.controllers import controller, useless
from rheostat.serve.costs import Times
from rheostat.serve.ladder import DOWN_A_MINUTE, DWELL, LATE_FOR
from rheostat.serve.policy import Policy
from rheostat.serve.scheduling import Controller, Line
from rheostat.serve.simulation import Outcome, simulate
from rheostat.serve.slack import SlackFit

DEADLINE = 0.05


@dataclass(frozen=True)
class Request:
    """A request of one image for any point."""

    arrived: float
    count: int = 1
    point: str | None = None


COSTS = {
    "safe": Times(((1, 0.010), (8, 0.080))),
    "balanced": Times(((1, 0.005), (8, 0.040))),
    "fast": Times(((1, 0.002), (8, 0.016))),
}
MEASURED = {"safe": {"robust_bound": 0.6}, "balanced": {"robust_bound": 0.5}, "fast": {"robust_bound": 0.4}}
LADDER = ("safe", "balanced", "fast")


def made(ladder: tuple[str, ...] = LADDER, least: float | None = 0.0, kind: str = "slack") -> Controller:
    return controller(Policy(ladder, 1e3 * DEADLINE, least, kind), MEASURED, COSTS)


def pass_time(point: str, images: int) -> float:
    return COSTS[point](images)


def steady(rate: float, seconds: float) -> list[float]:
    return [i / rate for i in range(int(rate * seconds))]


def run(arrivals: list[float], used: Controller, **more: float) -> list[Outcome]:
    found = simulate(arrivals, used, pass_time, most=8, **more)
    assert [o.arrived for o in found] == arrivals
    return found


def late(found: list[Outcome]) -> int:
    return sum(o.took > DEADLINE + 1e-9 for o in found if o.point is not None)


def refused(found: list[Outcome]) -> int:
    return sum(o.point is None for o in found)


def share(found: list[Outcome], point: str) -> float:
    return sum(o.point == point for o in found) / len(found)


def test_the_simulation_is_of_one_worker_and_loses_nothing() -> None:
    for kind in ("slack", "steps"):
        found = run(poisson(150, 500, 0), made(kind=kind))
        assert run(poisson(150, 500, 0), made(kind=kind)) == found
        answered = [o for o in found if o.point is not None]
        # Batches follow each other, and whoever came first is answered first.
        assert [o.ended for o in answered] == sorted(o.ended for o in answered)
        batches = {(o.ended, o.point) for o in answered}
        assert len({e for e, _ in batches}) == len(batches)
        assert sum(pass_time(p, sum((o.ended, o.point) == (e, p) for o in answered)) for e, p in batches) <= max(
            o.ended for o in answered
        )


def test_with_little_load_every_answer_is_the_preferred_points() -> None:
    found = run(steady(40, 5), made())
    assert {o.point for o in found} == {"safe"}
    assert late(found) == refused(found) == 0


def test_more_load_than_the_first_point_carries_is_answered_in_time_by_faster_ones() -> None:
    # safe carries 100 a second, balanced 200, fast 500.
    alone = run(steady(150, 5), made(("safe",)))
    found = run(steady(150, 5), made())
    assert refused(alone) > 0.2 * len(alone)
    assert late(found) == refused(found) == 0
    assert share(found, "safe") > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_answered_late_where_times_are_as_measured(seed: int) -> None:
    """Admission promises the fastest point; a better one is only chosen where it keeps that promise."""
    for rate in (50, 120, 250, 700):
        found = run(poisson(rate, 800, seed), made())
        assert late(found) == 0
        if rate <= 120:
            assert refused(found) == 0


def test_a_burst_is_served_by_the_fastest_point_and_then_by_the_preferred_again() -> None:
    found = run([*steady(20, 1), *(1.0 + i * 1e-4 for i in range(20)), *(2.0 + i / 20 for i in range(20))], made())
    assert late(found) == refused(found) == 0
    assert {o.point for o in found[:15]} == {o.point for o in found[-15:]} == {"safe"}
    assert "fast" in {o.point for o in found[20:40]}


def test_a_request_that_cannot_be_answered_in_time_is_refused_when_it_comes() -> None:
    found = run([0.0] * 100, made())
    assert refused(found) > 60
    for o in found:
        assert o.point is not None or o.ended == o.arrived
    assert late(found) == 0
    # The old ladder lets them all in, and most of them wait for an answer that comes too late.
    waits = run([0.0] * 100, made(kind="steps"))
    assert refused(waits) == 0
    assert late(waits) > 60


def test_an_idle_server_refuses_nobody() -> None:
    slow = {"safe": Times(((1, 1.0),))}
    used = SlackFit(("safe",), {"safe": 0.6}, slow, DEADLINE, free=0.0)
    found = simulate([0.0, 0.5, 5.0], used, lambda point, n: slow[point](n))
    assert [o.point for o in found] == ["safe", None, "safe"]


@pytest.mark.parametrize("kind", ["goodput", "slack", "steps"])
@pytest.mark.parametrize("least", [0.45, None])
def test_never_below_the_floor(kind: str, least: float | None) -> None:
    measured = {**MEASURED, "fast": {"robust_bound": 0.29}}
    used = controller(Policy(LADDER, 1e3 * DEADLINE, least, kind), measured, COSTS)
    found = run(poisson(900, 4000, 1), used)
    assert {o.point for o in found} <= {"safe", "balanced", None}
    assert share(found, "balanced") > 0.1


def test_without_a_written_floor_load_lowers_the_bound_seldom() -> None:
    used = made(least=None)
    assert used.allowed == LADDER
    found = run(steady(400, 20), used)
    first = {p: min(o.ended for o in found if o.point == p) for p in ("balanced", "fast")}
    assert first["balanced"] >= LATE_FOR
    assert first["fast"] >= first["balanced"] + DWELL - DEADLINE
    # Load that comes and goes for a minute moves the bound at most so many times.
    waves = [10 * k + t for k in range(6) for t in steady(400, 3)]
    used = made(("safe", "fast"), least=None)
    found = run(waves, used)
    assert min(o.ended for o in found if o.point == "fast") >= LATE_FOR
    assert isinstance(used, SlackFit)
    assert 1 <= len(used.guard.downs) <= DOWN_A_MINUTE


def test_a_point_as_robust_as_the_first_is_free_without_a_floor() -> None:
    measured = {**MEASURED, "fast": {"robust_bound": 0.6}}
    used = controller(Policy(("safe", "fast"), 1e3 * DEADLINE, controller="slack"), measured, COSTS)
    found = run(steady(300, 2), used)
    assert late(found) == refused(found) == 0
    assert share(found, "fast") > 0.3


def test_slower_passes_than_measured_are_learned() -> None:
    """A machine that has become three times slower: predictions follow within a few batches."""
    found = simulate(steady(100, 10), made(), lambda p, n: 3 * COSTS[p](n), most=8)
    assert late(found[100:]) < 0.02 * len(found)
    assert share(found[100:], "fast") > 0.5


def test_a_batch_waits_to_fill_no_longer_than_its_head_can_afford() -> None:
    quick = run([0.0, 0.003], made(), window=0.005)
    assert quick[0].waited == pytest.approx(0.005)
    assert quick[0].ended == quick[1].ended
    slow = run([0.0], made(), window=10.0)
    assert slow[0].took <= DEADLINE
    assert run([0.0], made(kind="steps"), window=1.0)[0].waited == pytest.approx(1.0)


def test_sustained_load_is_carried_by_the_middle_point_and_not_by_the_ends_in_turn() -> None:
    """A preferred answer now was once paid for by the fastest point's a moment later."""
    found = run(poisson(150, 3000, 0), made())
    assert late(found) == refused(found) == 0
    assert share(found, "safe") + share(found, "balanced") > 0.85
    assert share(found, "fast") < 0.15


def test_a_point_that_another_beats_in_everything_is_not_used() -> None:
    measured = {
        "safe": {"robust_bound": 0.6, "clean_accuracy": 0.9},
        "balanced": {"robust_bound": 0.5, "clean_accuracy": 0.7},
        "fast": {"robust_bound": 0.5, "clean_accuracy": 0.8},
    }
    assert useless(LADDER, measured, COSTS) == {"balanced": "fast"}
    assert controller(Policy(LADDER, min_robust=0.0), measured, COSTS).allowed == ("safe", "fast")
    assert useless(LADDER, {**measured, "balanced": {"robust_bound": 0.5}}, COSTS) == {}
    assert useless(("balanced", "fast"), measured, COSTS) == {}
    assert useless(LADDER, dict.fromkeys(LADDER, measured["safe"]), dict.fromkeys(LADDER, COSTS["safe"])) == {}


@pytest.mark.parametrize("kind", ["goodput", "slack"])
def test_the_batch_that_opens_a_faster_point_runs_at_it(kind: str) -> None:
    """The guard opened a point of which the batch's sizes were not known: a KeyError, which ended the service."""
    used = made(("safe", "fast"), least=None, kind=kind)
    for now in (0.0, 0.3, 0.6):
        late = Line[Request](used, most=8, room=8, window=0.0)
        late.jobs.append(Request(now - 0.045))
        decision, _ = late.take(now)
    assert (decision.point, decision.images, decision.step) == ("fast", 1, 1)


def test_slack_needs_times() -> None:
    with pytest.raises(ValueError, match="no measured times of safe, balanced"):
        controller(Policy(("safe", "balanced")), MEASURED, {})
    assert controller(Policy(("safe", "balanced"), controller="steps"), MEASURED, {}).allowed == ("safe", "balanced")
    with pytest.raises(ValueError, match="did you mean 'slack'"):
        controller(Policy(("safe",), controller="slak"), MEASURED, COSTS)
