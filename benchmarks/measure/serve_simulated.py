"""The queue simulated from a measured ladder alone: times, SA and RA of its points, and nothing of this machine.

Deterministic: the same ladder gives the same rows everywhere and under any load. Each point's accuracies are also what
the controllers are told, unless the ladder says what the model's file knew (`known`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from serve_arrivals import LOADS, NAMES, arrivals
from serve_judging import expected
from serve_oracle import oracle

from rheostat.serve.controllers import controller
from rheostat.serve.costs import Times
from rheostat.serve.policy import Measured, Policy
from rheostat.serve.scheduling import Controller
from rheostat.serve.simulation import Outcome, simulate

PASSES = 5
"""The deadline is so many times the time of one request at the first point."""
MOST = 32
"""Requests in a batch."""
ROOM = 4 * MOST
SHARE = 0.25
"""The share of requests that is attacked."""
TUNED, CONFIRMED = 0, tuple(range(1, 7))
"""The window of each trace (for Poisson the seed) on which controllers were made, and those that only judged them."""
DRAWN, LINE = ("code", 1.5), 1500


def capacity(times: Times, each: int, deadline: float) -> float:
    """Requests of `each` images a second that a point carries in the largest batch of which two fit the deadline."""
    size = max([n for n in range(1, MOST + 1) if 2 * times(n * each) <= deadline], default=1)
    return size / times(size * each)


def ways(ladder: tuple[str, ...], deadline: float) -> dict[str, Policy]:
    """The policies that are compared."""
    target = 1e3 * deadline
    known = {
        "goodput": Policy(ladder, target, 0.0),
        "goodput, no floor written": Policy(ladder, target),
        "slack": Policy(ladder, target, 0.0, "slack"),
        "steps": Policy(ladder, target, 0.0, "steps"),
    }
    return known | {f"only {name}": Policy((name,), target, 0.0) for name in ladder}


@dataclass(frozen=True)
class Bench:
    """A ladder as a row has it (point → ms, clean_accuracy, robust_accuracy), and requests of `each` images."""

    ladder: Mapping[str, Mapping[str, Any]]
    each: int = 1

    @cached_property
    def costs(self) -> dict[str, Times]:
        return {
            name: Times(tuple(sorted((int(n), ms / 1e3) for n, ms in point["ms"].items())))
            for name, point in self.ladder.items()
        }

    @cached_property
    def measured(self) -> Measured:
        """What the controllers are told."""
        return {name: point.get("known", point) for name, point in self.ladder.items()}

    def accuracy(self, kind: str) -> dict[str, float]:
        return {name: float(point[f"{kind}_accuracy"]) for name, point in self.ladder.items()}

    @property
    def preferred(self) -> Times:
        return next(iter(self.costs.values()))

    @property
    def deadline(self) -> float:
        return PASSES * self.preferred(self.each)

    @property
    def rate(self) -> float:
        """Requests a second at a load of 1."""
        return capacity(self.preferred, self.each, self.deadline)

    def times(self, trace: str, load: float, window: int, count: int) -> list[float]:
        return arrivals(trace, load * self.rate, count, window=window)

    def made(self, policy: Policy) -> Controller:
        return controller(policy, self.measured, self.costs)

    def run(self, times: list[float], used: Controller, **more: Any) -> list[Outcome]:
        limits = {"images": self.each, "most": MOST * self.each, "room": ROOM * self.each}
        return simulate(times, used, lambda point, images: self.costs[point](images), **limits, **more)

    def best(self, times: list[float]) -> list[Outcome]:
        """The oracle's schedule: an answer is worth what it is for the mixture of clean and attacked images."""
        clean, robust = self.accuracy("clean"), self.accuracy("robust")
        value = {n: (1 - SHARE) * clean[n] + SHARE * robust[n] for n in self.ladder}
        return oracle(times, value, lambda p, n: self.costs[p](n * self.each), self.deadline, most=MOST)

    def judged(self, outcomes: list[Outcome]) -> dict[str, Any]:
        return expected(outcomes, self.accuracy("clean"), self.accuracy("robust"), SHARE, self.deadline)

    def about(self) -> dict[str, Any]:
        return {"deadline_ms": 1e3 * self.deadline, "capacity": self.rate, "images_per_request": self.each}


def simulated(bench: Bench, count: int) -> list[dict[str, Any]]:
    """Every trace × load × policy on the window on which controllers were made."""
    rows = []
    for trace in NAMES:
        for load in LOADS:
            times = bench.times(trace, load, TUNED, count)
            known = ways(tuple(bench.ladder), bench.deadline).items()
            done = {label: bench.run(times, bench.made(policy)) for label, policy in known}
            done["oracle"] = bench.best(times)
            for label, outcomes in done.items():
                row = {"how": "simulated", "trace": trace, "load": load, "policy": label, **bench.judged(outcomes)}
                rows.append(row | line(row, outcomes, next(iter(bench.ladder))) | bench.about())
    return rows


def confirmed(bench: Bench, count: int) -> list[dict[str, Any]]:
    """One row a trace × load × other window: effective accuracy (clean) and answers in time of every policy."""
    rows = []
    for trace in NAMES:
        for load in LOADS:
            for window in CONFIRMED:
                times = bench.times(trace, load, window, count)
                known = ways(tuple(bench.ladder), bench.deadline).items()
                done = {label: bench.run(times, bench.made(policy)) for label, policy in known}
                if load >= 1:
                    done["oracle"] = bench.best(times)
                numbers = {label: bench.judged(outcomes) for label, outcomes in done.items()}
                row = {"how": "confirmed", "trace": trace, "load": load, "window": window, "requests": count}
                short = {k: {p: round(n[k], 5) for p, n in numbers.items()} for k in ("effective_clean", "slo", "late")}
                rows.append(row | short | bench.about())
    return rows


def line(row: Mapping[str, Any], outcomes: list[Outcome], first: str) -> dict[str, Any]:
    """The first requests of a replay that is drawn: arrival, seconds to the answer, point."""
    if (row["trace"], row["load"]) != DRAWN or row["policy"] not in ("goodput", f"only {first}"):
        return {}
    return {"line": [[round(o.arrived, 4), round(o.took, 5), o.point] for o in outcomes[:LINE]]}
