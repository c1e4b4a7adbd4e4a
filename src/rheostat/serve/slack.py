"""Slack-based scheduling: for each batch, the most preferred point that still answers every request in time.

Also called slack-fit scheduling. The head of the queue has the least time left (its *slack*). Under low load the slack
is large and the preferred point fits; in a burst the slack shrinks and the controller takes a faster point. This
follows SuperServe's SlackFit (Khare et al., NSDI 2025), which chooses point and batch size by the slack of the most
urgent request; Model-Switching (Zhang et al., HotCloud 2020) and Proteus (Ahmad et al., ASPLOS 2024) scale accuracy
with load for the same reason. Unlike SlackFit, this controller also considers the requests behind the head and those
expected to arrive while the batch runs, and it has a floor: it moves to points of lower robustness rarely and slowly.
"""

from __future__ import annotations

import math

from rheostat.serve.punctual import Punctual
from rheostat.serve.scheduling import Decision, Load, Waiting


class SlackFit(Punctual):
    """A controller (`scheduling.Controller`): the most preferred point at which no request is expected to be late.

    For ten deadlines after the queue was full, a batch must also leave room for the requests that are expected while it
    runs.
    """

    memory = 10.0
    recent = 0.0
    """Arrivals in images per second, averaged over one deadline: a queue fills within moments."""
    full_at = -math.inf
    """When the queue last had no room for a request."""

    def refused(self, load: Load, job: Waiting) -> None:
        """The request counts as an arrival and as load, and batches leave room in the queue for a while."""
        super().refused(load, job)
        self.full_at = load.now

    def decide(self, load: Load) -> Decision:
        """The most preferred point, with its largest batch, at which no request is expected to be late.

        Requests behind the batch are assumed to run at the most preferred point that answers them in time. If no
        point works: the fastest one, with the batch that makes the fewest images late.
        """
        self._count(load.now, 0)
        sizes = {point: self._sizes(load, point) for point in self.usable}
        # Later requests run at `rest`, also tried in order of preference, so that a better answer now does not cause
        # much worse ones later.
        for place, rest in enumerate(self.usable):
            for point in self.usable[: place + 1]:
                for size in sizes[point]:
                    if (
                        self._leaves_room(load, point, size)
                        and self._leaves_time(load, point, size, rest)
                        and not self._late(load, point, size, rest)
                    ):
                        self.name = point
                        self._calm(load.now, rest)
                        return Decision(point, size, self._step())
        self._press(load.now)
        point = self.name = self.fastest
        # The guard may just have opened a faster point, so its batches are sized now.
        size = min(self._sizes(load, point), key=lambda n: self._late(load, point, n, point))
        return Decision(point, size, self._step())

    def _drain(self, point: str, images: int, most: int) -> float:
        """Seconds in which a point answers `images` images in full batches."""
        full, left = divmod(images, most)
        return full * self.expected(point, most) + (self.expected(point, left) if left else 0.0)

    def _count(self, now: float, images: int) -> None:
        self.recent = self._average(self.recent, now, images, self.deadline)
        super()._count(now, images)

    def _leaves_room(self, load: Load, point: str, size: int) -> bool:
        """Whether requests that arrive while such a batch runs find room; assumed if the queue was not full lately."""
        if load.now - self.full_at > self.memory * self.deadline:
            return True
        behind = sum(job.count for job in load.waiting) - size
        return behind + self.recent * self._cautious(point, size) <= load.room

    def _leaves_time(self, load: Load, point: str, size: int, rest: str) -> bool:
        """Whether requests that arrive just after such a batch starts can be answered in time at `rest`."""
        seconds = self._cautious(point, size)
        ahead = sum(job.count for job in load.waiting) - size + self.rate * seconds
        return seconds + self._drain(rest, math.ceil(ahead), load.most) <= self.deadline

    def _late(self, load: Load, point: str, size: int, rest: str) -> int:
        """Number of images that miss their deadline if this batch runs now and the others run at `rest`."""
        begins = load.now + self._cautious(point, size)
        _, late, behind = self._split(load, begins, size)
        return late + self._behind(behind, rest, begins, load.most)[1]
