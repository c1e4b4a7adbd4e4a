"""The point and the batch with the most correct answers in time to expect: of the batch, the queue, what comes next.

Also called goodput or effective accuracy as the objective, with a receding horizon: each batch is chosen anew by what
would follow from it. Whoever is chosen now keeps the worker busy, and in a burst a second of it is worth many answers
at a fast point; in calm it is worth nothing. SuperServe's SlackFit (Khare et al., NSDI 2025; `slack.SlackFit` here)
sees that price only in the slack of those who already wait, so a burst meets it in the middle of a slow batch. Proteus
(Ahmad et al., ASPLOS 2024) and Model-Switching (Zhang et al., HotCloud 2020) weigh accuracy against the forecast
load as well, by a solver every some seconds and by tables of rates made beforehand.

There is one time constant, the deadline: the arrivals of about the last deadline are the forecast for the next one. A
longer look ahead would plan for requests of which nothing is known, a shorter one would miss those that the batch of
now makes late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rheostat.serve.costs import Costs
from rheostat.serve.punctual import Punctual
from rheostat.serve.scheduling import Decision, Load

EQUAL = 1e-9
"""Two expected numbers of answers that differ by less are equal, and the more preferred point is taken."""


@dataclass(frozen=True)
class _Outlook:
    """A batch of `size` images at `point`, all others at `rest`: images late, and what answers in time are worth."""

    point: str
    size: int
    rest: str
    late: int
    value: float


class Goodput(Punctual):
    """A controller (`scheduling.Controller`). `worth`: what an answer in time is worth at each point, 0 to 1.

    A point never counts for more than one that is preferred to it. Whoever was admitted was promised an answer in
    time: a choice that breaks fewer promises always wins, and among those the one that is worth most.
    """

    def __init__(
        self,
        allowed: tuple[str, ...],
        robustness: Mapping[str, float],
        costs: Costs,
        deadline: float,
        *,
        free: float,
        worth: Mapping[str, float],
    ) -> None:
        super().__init__(allowed, robustness, costs, deadline, free=free)
        self.worth: dict[str, float] = {}
        least = float("inf")
        for name in allowed:
            least = self.worth[name] = min(least, worth[name])

    def decide(self, load: Load) -> Decision:
        """The batch after which most is expected to be answered well and in time until a deadline from now.

        Those who wait behind it, and those who are expected to come, are thought of at one point, the best for them.
        """
        self._count(load.now, 0)
        best = None
        for plan in self._plans(load):
            if best is None or plan.late < best.late or (plan.late == best.late and plan.value > best.value + EQUAL):
                best = plan
        assert best is not None, "decides where nobody waits"
        if best.late:
            self._press(load.now)
            # Somebody is late whatever is chosen: as little as can be.
            hasty = [plan for plan in self._plans(load) if plan.point == self.fastest]
            best = min(hasty, key=lambda plan: (plan.late, -plan.value))
        else:
            self._calm(load.now, best.point, best.rest)
        self.name = best.point
        return Decision(best.point, best.size, self._step())

    def _plans(self, load: Load) -> Iterator[_Outlook]:
        """Every point, batch and point for the rest, the preferred ones first, and what is to be expected of them."""
        paces = {point: self._pace(point, load.most) for point in self.usable}
        for point in self.usable:
            for size in self._sizes(load, point):
                ends = load.now + self._cautious(point, size)
                good, late, behind = self._split(load, ends, size)
                for rest in self.usable:
                    kept, missed, free = 0, late, ends
                    for job, free in self._plan(behind, rest, ends, load.most, 1.0) if behind else ():
                        if free > job.arrived + self.deadline:
                            missed += job.count
                        else:
                            kept += job.count
                    after = kept + self._coming(*paces[rest], free - load.now)
                    yield _Outlook(point, size, rest, missed, self.worth[point] * good + self.worth[rest] * after)

    def _pace(self, point: str, most: int) -> tuple[float, float]:
        """(images a second, seconds of a batch) of a point in batches of which two fit into the deadline."""
        sizes = [1]
        while 2 * sizes[-1] <= most and 2 * self.expected(point, 2 * sizes[-1]) <= self.deadline:
            sizes.append(2 * sizes[-1])
        size = max(sizes, key=lambda n: n / self.expected(point, n))
        return size / self.expected(point, size), self.expected(point, size)

    def _coming(self, pace: float, batch: float, busy: float) -> float:
        """Images that arrive within a deadline from now and are answered in time, if they wait for `busy` seconds.

        A steady stream (a fluid approximation): who comes too early to outlast `busy` and a batch is lost, and of the
        others only as many are answered as the pace allows until the last one's deadline.
        """
        lost = max(0.0, busy + batch - self.deadline)
        return max(0.0, min(self.rate * (self.deadline - lost), pace * (2 * self.deadline - busy)))
