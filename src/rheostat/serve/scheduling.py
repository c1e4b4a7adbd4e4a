"""The queue of a service without its clock: what is admitted, when a batch begins, which requests it takes.

The engine runs it in real time and the simulation in simulated time, so both decide alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Full(Exception):
    """The queue holds as many images as it may."""

    def __init__(self, text: str = "the queue is full") -> None:
        super().__init__(text)


class Late(Full):
    """No allowed point could answer this request in time, so it is refused before it waits."""

    def __init__(self) -> None:
        super().__init__("no allowed point could answer in time; the queue is too long")


class Waiting(Protocol):
    """A request in the queue."""

    @property
    def count(self) -> int:
        """Its images."""

    @property
    def arrived(self) -> float:
        """When it came, in seconds of the clock of the queue."""

    @property
    def point(self) -> str | None:
        """The point that it asked for, where clients may (labs); None: the controller decides."""


Job = TypeVar("Job", bound=Waiting)


@dataclass(frozen=True)
class Load:
    """What a controller sees: the time, the requests in the queue, the largest batch, when the worker is free."""

    now: float
    waiting: Sequence[Waiting]
    most: int
    free_at: float


@dataclass(frozen=True)
class Decision:
    """One batch: its point, at most so many images, and whether the ladder stepped (1 down, -1 up)."""

    point: str
    images: int
    step: int = 0


class Controller(Protocol):
    """Chooses a point for each batch among the allowed ones, and refuses what would come too late."""

    allowed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The point that was used last, the preferred one at first."""

    def admits(self, load: Load, images: int) -> bool:
        """Whether a request of so many images may enter the queue now. Called once for each request."""

    def hold(self, load: Load, window: float) -> float:
        """Seconds from its arrival that the oldest request may wait for a batch to fill; at most `window`."""

    def decide(self, load: Load) -> Decision:
        """The next batch. Called once for each batch."""

    def expected(self, point: str, images: int) -> float:
        """Seconds that a batch is expected to take; 0 where that is not known."""

    def observe(self, point: str, images: int, seconds: float) -> None:
        """Note what a batch took."""


class Line(Generic[Job]):
    """A bounded queue in order of arrival, and the batch that is in the model."""

    def __init__(self, controller: Controller, *, most: int, room: int, window: float) -> None:
        self.controller, self.most, self.room, self.window = controller, most, room, window
        self.jobs: deque[Job] = deque()
        self.images = 0
        self.free_at: float | None = None
        """When the batch in the model is expected to end; None: there is none."""

    def load(self, now: float) -> Load:
        """What a controller sees now."""
        return Load(now, self.jobs, self.most, now if self.free_at is None else max(now, self.free_at))

    def offer(self, job: Job, now: float) -> None:
        """Put a request at the end; Full where there is no room, Late where it would be answered too late."""
        if self.images + job.count > self.room:
            raise Full
        idle = not self.jobs and self.free_at is None
        # Asked in any case: a controller counts what is offered. An idle server refuses nobody.
        if not self.controller.admits(self.load(now), job.count) and not idle:
            raise Late
        self.jobs.append(job)
        self.images += job.count

    def starts(self, now: float) -> float:
        """When the next batch begins unless more requests arrive; there is at least one."""
        if self.images >= self.most:
            return now
        return max(now, self.jobs[0].arrived + self.controller.hold(self.load(now), self.window))

    def take(self, now: float) -> tuple[Decision, list[Job]]:
        """The next batch: whole requests for one point, in order of arrival; the first is always in it."""
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
        """The batch in the model has ended."""
        self.free_at = None
        self.controller.observe(point, images, seconds)

    def drop(self, gone: Callable[[Job], bool]) -> None:
        """Take out requests that nobody waits for any more."""
        if any(gone(job) for job in self.jobs):
            self.jobs = deque(job for job in self.jobs if not gone(job))
            self.images = sum(job.count for job in self.jobs)
