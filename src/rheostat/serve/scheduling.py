"""The queue of a service, independent of the clock: it admits requests, and decides when and from what a batch starts.

The engine runs it in real time and the simulation in simulated time, so both make the same decisions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Full(Exception):
    """The queue is full."""

    def __init__(self, text: str = "the queue is full") -> None:
        super().__init__(text)


class Late(Full):
    """No allowed point could answer this request in time, so the server refuses it at once."""

    def __init__(self) -> None:
        super().__init__("no allowed point could answer in time; the queue is too long")


class Stopped(Full):
    """The server answers no further requests."""

    def __init__(self) -> None:
        super().__init__("the server has stopped answering")


class Waiting(Protocol):
    """A request in the queue."""

    @property
    def count(self) -> int:
        """Number of its images."""

    @property
    def arrived(self) -> float:
        """When its deadline and its wait began, in seconds of the queue's clock."""

    @property
    def point(self) -> str | None:
        """The point that it asks for, if the server allows that; None lets the controller choose."""


Job = TypeVar("Job", bound=Waiting)


@dataclass(frozen=True)
class Load:
    """What a controller sees: the time, the waiting requests, the largest batch, when the worker becomes free, and how
    many images may wait."""

    now: float
    waiting: Sequence[Waiting]
    most: int
    free_at: float
    room: float = math.inf


@dataclass(frozen=True)
class Decision:
    """One batch: its point, its largest number of images, and the ladder's step (1 down, -1 up, 0 none)."""

    point: str
    images: int
    step: int = 0


class Controller(Protocol):
    """Chooses an allowed point for each batch, and refuses requests that it could not answer in time."""

    allowed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last point used; at the start the preferred one."""

    def admits(self, load: Load, job: Waiting) -> bool:
        """Whether this request may enter the queue now. Called once for each request that finds room."""

    def refused(self, load: Load, job: Waiting) -> None:
        """Record that the queue had no room for this request; faster batches would have made some."""

    def hold(self, load: Load, window: float) -> float:
        """Seconds, from its arrival, that the oldest request may wait for the batch to fill; at most `window`."""

    def decide(self, load: Load) -> Decision:
        """The next batch. Called once for each batch."""

    def expected(self, point: str, images: int) -> float:
        """Seconds that a batch is expected to take; 0 if unknown."""

    def observe(self, point: str, images: int, seconds: float) -> None:
        """Record how long a batch took."""


class Line(Generic[Job]):
    """A bounded queue in order of arrival, and the batch that is in the model."""

    def __init__(self, controller: Controller, *, most: int, room: int, window: float) -> None:
        self.controller, self.most, self.room, self.window = controller, most, room, window
        self.jobs: deque[Job] = deque()
        self.images = 0
        self.free_at: float | None = None
        """When the batch in the model is expected to end; None if there is none."""

    def load(self, now: float) -> Load:
        """What a controller sees now."""
        return Load(now, self.jobs, self.most, now if self.free_at is None else max(now, self.free_at), self.room)

    def offer(self, job: Job, now: float) -> None:
        """Append a request; Full if there is no room, Late if it could not be answered in time.

        An empty queue has room for any request: one of more images than the queue holds would be refused for ever.
        """
        # The controller learns of every request, because it counts those that were offered.
        if self.jobs and self.images + job.count > self.room:
            self.controller.refused(self.load(now), job)
            raise Full
        idle = not self.jobs and self.free_at is None
        # An idle server refuses nobody.
        if not self.controller.admits(self.load(now), job) and not idle:
            raise Late
        self.jobs.append(job)
        self.images += job.count

    def starts(self, now: float) -> float:
        """When the next batch starts if no more requests arrive; the queue must not be empty."""
        if self.images >= min(self.most, self.room):
            return now
        return max(now, self.jobs[0].arrived + self.controller.hold(self.load(now), self.window))

    def take(self, now: float) -> tuple[Decision, list[Job]]:
        """The next batch: whole requests for one point in order of arrival, always including the first."""
        decision = self.controller.decide(self.load(now))
        batch = [self.jobs.popleft()]
        asked, count = batch[0].point, batch[0].count
        limit = self.most if asked is not None else min(self.most, decision.images)
        while self.jobs and count + self.jobs[0].count <= limit and self.jobs[0].point == asked:
            batch.append(self.jobs.popleft())
            count += batch[-1].count
        self.images -= count
        point = decision.point if asked is None else asked
        self.free_at = now + self.controller.expected(point, count)
        return Decision(point, count, decision.step), batch

    def finish(self, point: str, images: int, seconds: float) -> None:
        """Record that the batch in the model has ended."""
        self.free_at = None
        self.controller.observe(point, images, seconds)

    def drop(self, gone: Callable[[Job], bool]) -> None:
        """Remove requests that nobody is waiting for any more."""
        if any(gone(job) for job in self.jobs):
            self.jobs = deque(job for job in self.jobs if not gone(job))
            self.images = sum(job.count for job in self.jobs)
