"""The load ladder: a server steps down, at a bounded rate, after sustained waits, and up again when load is low."""

from __future__ import annotations

import math
from collections import deque

from rheostat.serve.scheduling import Decision, Load, Waiting

DOWN_AFTER = 3
"""The server steps down only after this many consecutive late batches,"""
LATE_FOR = 0.5
"""and only if this many seconds lie between the first of them and the last."""
DWELL = 2.0
"""Seconds that the server stays at a point, at least, before it steps down again."""
DOWN_A_MINUTE = 6
"""Maximum number of steps down per minute."""
UP_AFTER = 2.0
"""The server steps up after this many seconds of short waits."""
CALM = 0.3
"""A wait is short if it is below this share of the target."""


class Ladder:
    """The server's current position on the ladder, updated from the waiting times of batches.

    An attacker who creates load can make it step down: the constants above bound how often, and `allowed` how far.
    """

    def __init__(self, allowed: tuple[str, ...], target_ms: float) -> None:
        self.allowed, self.target_ms = allowed, target_ms
        self.place = self.late = 0
        self.late_since = 0.0
        self.calm_since: float | None = None
        self.downs: deque[float] = deque(maxlen=DOWN_A_MINUTE)
        self.moved: float | None = None

    @property
    def name(self) -> str:
        """The current point."""
        return self.allowed[self.place]

    def observe(self, waited_ms: float, now: float) -> int:
        """Record a batch's longest wait; return 1 after a step down, -1 after a step up, else 0.

        `now` is in seconds of a monotonic clock.
        """
        if waited_ms > self.target_ms:
            self.calm_since = None
            self.late += 1
            if self.late == 1:
                self.late_since = now
            if self._down(now):
                self.place, self.late, self.moved = self.place + 1, 0, now
                self.downs.append(now)
                return 1
            return 0
        self.late = 0
        if waited_ms > CALM * self.target_ms:
            self.calm_since = None
            return 0
        self.calm_since = now if self.calm_since is None else self.calm_since
        if now - self.calm_since >= UP_AFTER and self.place > 0:
            self.place, self.calm_since, self.moved = self.place - 1, now, now
            return -1
        return 0

    def _down(self, now: float) -> bool:
        if self.place == len(self.allowed) - 1:
            return False
        if self.late < DOWN_AFTER or now - self.late_since < LATE_FOR:
            return False
        if self.moved is not None and now - self.moved < DWELL:
            return False
        return len(self.downs) < DOWN_A_MINUTE or now - self.downs[0] >= 60


class Steps:
    """A controller (`scheduling.Controller`) that runs every batch at the ladder's current point.

    It reacts to the wait of the oldest request of each batch, and refuses no request until the queue is full. A batch
    before which the queue had no room for a request counts as late.
    """

    def __init__(self, allowed: tuple[str, ...], target_ms: float) -> None:
        self.allowed = allowed
        self.ladder = Ladder(allowed, target_ms)
        self.full = False
        """Whether a request has found no room since the last batch."""

    @property
    def name(self) -> str:
        """The current point."""
        return self.ladder.name

    def admits(self, load: Load, job: Waiting) -> bool:
        """Always true."""
        return True

    def refused(self, load: Load, job: Waiting) -> None:
        """The next batch counts as late."""
        self.full = True

    def hold(self, load: Load, window: float) -> float:
        """The whole window."""
        return window

    def decide(self, load: Load) -> Decision:
        """The largest batch, at the ladder's point once the wait of the oldest request is recorded."""
        waited_ms = math.inf if self.full else 1e3 * (load.now - load.waiting[0].arrived)
        self.full = False
        step = self.ladder.observe(waited_ms, load.now)
        return Decision(self.ladder.name, load.most, step)

    def expected(self, point: str, images: int) -> float:
        """Always 0: this controller has no measured times."""
        return 0.0

    def observe(self, point: str, images: int, seconds: float) -> None:
        """Do nothing: only waits move the ladder."""
