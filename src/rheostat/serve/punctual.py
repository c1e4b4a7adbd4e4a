"""The common part of controllers that keep a deadline: measured times, early refusal, plans of batches, levels.

A request is admitted if the fastest usable point could still answer it in time, and refused on arrival otherwise
(Clipper, Crankshaw et al., NSDI 2017, and Nexus, Shen et al., SOSP 2019, drop such requests too). A request that
the queue has no room for counts as arrived too, and as load. Points below the free level of measured robustness open
rarely and slowly. A subclass adds `decide`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from rheostat.serve.costs import Costs
from rheostat.serve.ladder import LATE_FOR, Ladder
from rheostat.serve.scheduling import Load, Waiting

CALM, BETWEEN, LATE = 0.0, 0.5, 2.0
"""Waits reported to the guard's ladder, whose target is 1: no request waits, neither case, a request is late."""


class Punctual:
    """A controller (`scheduling.Controller`) without its choice. Times are in seconds.

    `allowed` is in order of preference. `memory` is the number of deadlines over which arrivals are averaged.

    The controller chooses freely, batch by batch, among points whose robustness is at least `free`. It opens points
    below that one level of robustness at a time, by the rules of `Ladder` (sustained load, a minimum dwell time, few
    steps per minute), and closes them when load is low, so that an attacker who creates load cannot move it at will.
    """

    memory = 1.0

    def __init__(
        self, allowed: tuple[str, ...], robustness: Mapping[str, float], costs: Costs, deadline: float, *, free: float
    ) -> None:
        missing = [n for n in allowed if n not in costs]
        if missing:
            raise ValueError(f"no measured times of {', '.join(missing)}; this controller needs them")
        self.allowed, self.costs, self.deadline = allowed, costs, deadline
        lower = sorted({robustness[n] for n in allowed if robustness[n] < free}, reverse=True)
        self.levels = [tuple(n for n in allowed if robustness[n] >= least) for least in (free, *lower)]
        self.levels = [level for level in self.levels if level]
        self.guard = Ladder(tuple(map(str, range(len(self.levels)))), 1.0)
        self.pressed = -math.inf
        self.pending = 0
        self.name = allowed[0]
        self.slowdown, self.spread = 1.0, 0.0
        self.rate, self.counted = 0.0, -math.inf

    @property
    def usable(self) -> tuple[str, ...]:
        """The points that may be chosen now, preferred first."""
        return self.levels[self.guard.place]

    @property
    def fastest(self) -> str:
        """The fastest usable point."""
        return min(self.usable, key=lambda n: self.costs[n].typical)

    def expected(self, point: str, images: int) -> float:
        """Expected seconds of a batch: the measured time, scaled by how much slower recent batches were.

        0 for a point without measured times: the controller never chooses one, but a request may name it, and the last
        batch of a policy that did not need them may run at one.
        """
        return self.slowdown * self.costs[point](images) if point in self.costs else 0.0

    def observe(self, point: str, images: int, seconds: float) -> None:
        """Update the smoothed ratio of observed to measured time, and its mean deviation (as in RFC 6298)."""
        if point not in self.costs:
            return
        ratio = min(4.0, max(0.25, seconds / self.costs[point](images)))
        self.spread += 0.25 * (abs(ratio - self.slowdown) - self.spread)
        self.slowdown += 0.125 * (ratio - self.slowdown)

    def admits(self, load: Load, job: Waiting) -> bool:
        """Whether the fastest usable point could answer this request before its deadline, after all waiting ones."""
        self._count(load.now, job.count)
        jobs = [*load.waiting, job]
        *_, (_, ends) = self._plan(jobs, self.fastest, load.free_at, load.most, self._caution)
        good = ends <= job.arrived + self.deadline
        if not good:
            self._press(load.now)
        return good

    def refused(self, load: Load, job: Waiting) -> None:
        """The request counts as an arrival, and a queue without room as load."""
        self._count(load.now, job.count)
        self._press(load.now)

    def hold(self, load: Load, window: float) -> float:
        """A batch may fill as long as the preferred point could answer its head within half the deadline."""
        count = min(load.most, sum(job.count for job in load.waiting))
        return max(0.0, min(window, self.deadline / 2 - self._cautious(self.usable[0], count)))

    def _plan(
        self, jobs: Iterable[Waiting], point: str, begins: float, most: int, caution: float
    ) -> Iterator[tuple[Waiting, float]]:
        """(request, its end) in batches at one point, each as large as possible without making a request late."""
        pace, times = self.slowdown * caution, self.costs[point]
        batch: list[Waiting] = []
        count, tightest = 0, math.inf
        for job in jobs:
            ends = begins + pace * times(count + job.count)
            if batch and (count + job.count > most or ends > tightest):
                begins += pace * times(count)
                yield from ((done, begins) for done in batch)
                batch, count, tightest = [], 0, math.inf
                ends = begins + pace * times(job.count)
            batch.append(job)
            count += job.count
            # A request may have waited longer for the event loop than one before it, so no order is assumed.
            if job.arrived + self.deadline >= ends:
                tightest = min(tightest, job.arrived + self.deadline)
        begins += pace * times(count)
        yield from ((done, begins) for done in batch)

    def _sizes(self, load: Load, point: str) -> list[int]:
        """Batch sizes to try at a point: the largest that makes no request late, then about half of each."""
        totals: list[int] = []
        first = None
        for job, ends in self._plan(load.waiting, point, load.now, load.most, self._caution):
            first = ends if first is None else first
            if ends > first:
                break
            totals.append(job.count + (totals[-1] if totals else 0))
        found, place = [], len(totals)
        while place >= 1:
            found.append(totals[place - 1])
            place //= 2
        return found

    @property
    def _caution(self) -> float:
        return 1.0 + self.spread / self.slowdown

    def _cautious(self, point: str, images: int) -> float:
        return self._caution * self.expected(point, images)

    def _split(self, load: Load, ends: float, size: int) -> tuple[int, int, list[Waiting]]:
        """(images in time, images late, requests still waiting) if a batch of `size` images ends at `ends`."""
        taken, good, late = 0, 0, 0
        behind: list[Waiting] = []
        for job in load.waiting:
            taken += job.count
            if taken > max(size, load.waiting[0].count):
                behind.append(job)
            elif ends > job.arrived + self.deadline:
                late += job.count
            else:
                good += job.count
        return good, late, behind

    def _behind(self, behind: list[Waiting], rest: str, begins: float, most: int) -> tuple[int, int, float]:
        """(images in time, images late, when the worker is free) if waiting requests run at `rest` from `begins`."""
        good, late, free = 0, 0, begins
        for job, free in self._plan(behind, rest, begins, most, 1.0) if behind else ():
            if free > job.arrived + self.deadline:
                late += job.count
            else:
                good += job.count
        return good, late, free

    def _count(self, now: float, images: int) -> None:
        """Update the arrival rate in images per second, an exponentially forgetting average."""
        self.rate = self._average(self.rate, now, images, self.memory * self.deadline)
        self.counted = max(self.counted, now)

    def _average(self, rate: float, now: float, images: int, seconds: float) -> float:
        """Update an average that forgets within about so many seconds; 0 before anything was counted."""
        return rate * math.exp(-max(0.0, now - self.counted) / seconds) + images / seconds

    def _press(self, now: float) -> None:
        """A request will be late or was refused: if that lasts, the guard opens a lower level."""
        self.pressed = now
        self.pending += self.guard.observe(LATE, now)

    def _calm(self, now: float, *points: str) -> None:
        """No request is late: if the level above would suffice for a while, the guard closes the lowest level."""
        if now - self.pressed >= LATE_FOR:
            place = self.guard.place
            stricter = place == 0 or all(point in self.levels[place - 1] for point in points)
            self.pending += self.guard.observe(CALM if stricter else BETWEEN, now)

    def _step(self) -> int:
        """The steps of the guard that no decision has reported yet."""
        step, self.pending = self.pending, 0
        return step
