"""A controller that maximises goodput: the expected number of correct answers in time.

It chooses each batch anew, over a receding horizon of one deadline: the batch, the queue behind it, and the arrivals to
come. A batch keeps the worker busy. In a burst, a second of the worker is worth many answers at a fast point; at low
load it is worth nothing. SuperServe's SlackFit (Khare et al., NSDI 2025; `slack.SlackFit` here) sees that cost only in
the slack of requests that already wait, so a burst can arrive in the middle of a slow batch. Proteus (Ahmad et al.,
ASPLOS 2024) and Model-Switching (Zhang et al., HotCloud 2020) also weigh accuracy against the forecast load, by a
solver that runs every few seconds and by precomputed tables of rates.

The only time constant is the deadline: the arrivals of about the last deadline are the forecast for the next one. A
longer horizon would plan for requests about which nothing is known; a shorter one would ignore requests that the
current batch makes late.

A short queue is full before any request in it is late. Arrivals that would find no room in it are not answered either,
so the controller takes a faster point before the server refuses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rheostat.serve.costs import Costs
from rheostat.serve.punctual import Punctual
from rheostat.serve.scheduling import Decision, Load

EQUAL = 1e-9
"""Expected numbers of answers that differ by less are equal; the more preferred point then wins."""


@dataclass(frozen=True)
class _Outlook:
    """A batch of `size` images at `point` and all others at `rest`: images late, and the value of answers in time."""

    point: str
    size: int
    rest: str
    late: int
    value: float


class Goodput(Punctual):
    """A controller (`scheduling.Controller`). `worth` is the value of an answer in time at each point, from 0 to 1.

    A point never counts for more than a point that is preferred to it. Admitted requests have a promise of an answer in
    time: the choice that makes the fewest of them late always wins, and among equals the choice of the highest value.
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
        """The batch with the highest expected value of answers in time, from now to one deadline later.

        Requests behind the batch and expected arrivals are assumed to run at one point, the best for them.
        """
        self._count(load.now, 0)
        best = None
        for plan in self._plans(load):
            if best is None or plan.late < best.late or (plan.late == best.late and plan.value > best.value + EQUAL):
                best = plan
        assert best is not None, "decide is called with an empty queue"
        if best.late:
            self._press(load.now)
            # Every choice makes a request late, so the fastest point answers. The guard may just have opened a faster
            # one, so the choices are made again.
            hasty = [plan for plan in self._plans(load) if plan.point == self.fastest]
            best = min(hasty, key=lambda plan: (plan.late, -plan.value))
        else:
            self._calm(load.now, best.point, best.rest)
        self.name = best.point
        return Decision(best.point, best.size, self._step())

    def _plans(self, load: Load) -> Iterator[_Outlook]:
        """Every choice of point, batch size and point for the rest, preferred points first, with its outlook."""
        paces = {point: self._pace(point, load.most) for point in self.usable}
        for point in self.usable:
            for size in self._sizes(load, point):
                ends = load.now + self._cautious(point, size)
                good, late, behind = self._split(load, ends, size)
                space = load.room - sum(job.count for job in behind)
                for rest in self.usable:
                    kept, missed, free = self._behind(behind, rest, ends, load.most)
                    pace, batch = paces[rest]
                    coming = self._coming(pace, batch, free - load.now)
                    fitting = self.rate * self.deadline - self._crowded_out(pace, ends - load.now, space)
                    after = kept + max(0.0, min(coming, fitting))
                    value = self.worth[point] * good + self.worth[rest] * after
                    yield _Outlook(point, size, rest, late + missed, value)

    def _pace(self, point: str, most: int) -> tuple[float, float]:
        """(images per second, seconds of a batch) of a point, in batches of which two fit into the deadline."""
        sizes = [1]
        while 2 * sizes[-1] <= most and 2 * self.expected(point, 2 * sizes[-1]) <= self.deadline:
            sizes.append(2 * sizes[-1])
        size = max(sizes, key=lambda n: n / self.expected(point, n))
        return size / self.expected(point, size), self.expected(point, size)

    def _coming(self, pace: float, batch: float, busy: float) -> float:
        """Expected images that arrive within the next deadline and are answered in time, if the worker is busy first.

        A fluid approximation of a steady stream. Images that arrive too early to wait for `busy` seconds and one batch
        are late. Of the others, the pace limits how many are answered before the last one's deadline.
        """
        lost = max(0.0, busy + batch - self.deadline)
        return max(0.0, min(self.rate * (self.deadline - lost), pace * (2 * self.deadline - busy)))

    def _crowded_out(self, pace: float, busy: float, space: float) -> float:
        """Expected images of the next deadline that the queue has no room for, if `space` is free in it now.

        The same approximation. For `busy` seconds nothing leaves the queue, and after that as much as the pace allows.
        """
        busy = min(busy, self.deadline)
        first = self.rate * busy
        then = (self.rate - pace) * (self.deadline - busy)
        return max(0.0, first - space) + max(0.0, then - max(0.0, space - first))
