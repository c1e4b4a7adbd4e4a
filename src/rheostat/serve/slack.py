"""The best point that still answers everybody in time, chosen for each batch from the queue and its deadlines.

Also called slack-fit scheduling. The head of the queue has the least time left (its *slack*); with little load the
slack is large and the preferred point fits into it, in a burst it shrinks and a faster point has to be taken. After
SuperServe's SlackFit (Khare et al., NSDI 2025), which chooses point and batch size by the slack of the most urgent
request; Model-Switching (Zhang et al., HotCloud 2020) and Proteus (Ahmad et al., ASPLOS 2024) scale accuracy with load
for the same reason. Unlike SlackFit it also looks at the requests behind the head and at those expected to arrive
while the batch runs, and it knows a floor: a point of less measured robustness is reached seldom and slowly.
"""

from __future__ import annotations

import math

from rheostat.serve.punctual import Punctual
from rheostat.serve.scheduling import Decision, Load


class SlackFit(Punctual):
    """A controller (`scheduling.Controller`): the most preferred point with which nobody is expected to be late."""

    memory = 10.0

    def decide(self, load: Load) -> Decision:
        """The most preferred point, and its largest batch, with which nobody is expected to be late.

        Those who wait behind the batch are thought of at the most preferred point that can answer them in time, at
        the batch's own if possible. Where no point can: the fastest, with the batch that leaves the fewest late.
        """
        self._count(load.now, 0)
        sizes = {point: self._sizes(load, point) for point in self.usable}
        # What follows runs at `rest`, tried in order of preference too: a better answer now is not paid for by much
        # worse ones later.
        for place, rest in enumerate(self.usable):
            for point in self.usable[: place + 1]:
                for size in sizes[point]:
                    if self._leaves_time(load, point, size, rest) and not self._late(load, point, size, rest):
                        self.name = point
                        self._calm(load.now, rest)
                        return Decision(point, size, self._step())
        self._press(load.now)
        point = self.name = self.fastest
        size = min(sizes[point], key=lambda n: self._late(load, point, n, point))
        return Decision(point, size, self._step())

    def _drain(self, point: str, images: int, most: int) -> float:
        """Seconds in which a point answers so many images, in full batches."""
        full, left = divmod(images, most)
        return full * self.expected(point, most) + (self.expected(point, left) if left else 0.0)

    def _leaves_time(self, load: Load, point: str, size: int, rest: str) -> bool:
        """Whether those who arrive just after such a batch has begun can be answered in time, at `rest`."""
        seconds = self._cautious(point, size)
        ahead = sum(job.count for job in load.waiting) - size + self.rate * seconds
        return seconds + self._drain(rest, math.ceil(ahead), load.most) <= self.deadline

    def _late(self, load: Load, point: str, size: int, rest: str) -> int:
        """Images that miss their deadline if this batch runs now and `rest` answers those behind it."""
        begins = load.now + self._cautious(point, size)
        _, late, behind = self._split(load, begins, size)
        plan = self._plan(behind, rest, begins, load.most, 1.0) if behind else ()
        return late + sum(job.count for job, ends in plan if ends > job.arrived + self.deadline)
