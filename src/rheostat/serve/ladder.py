"""The ladder that a server walks with its load: down after sustained waits, and seldom; up when it is calm."""

from __future__ import annotations

from collections import deque

from rheostat.serve.scheduling import Decision, Load

DOWN_AFTER = 3
"""Batches in a row that waited too long before the server steps down,"""
LATE_FOR = 0.5
"""and the seconds from the first of them to the last."""
DWELL = 2.0
"""Least seconds at a point before the next step down."""
DOWN_A_MINUTE = 6
"""Steps down in a minute, at most."""
UP_AFTER = 2.0
"""Seconds of short waits before it steps up again."""
CALM = 0.3
"""A wait below this share of the target is short."""


class Ladder:
    """Where on the ladder the server stands; moved by how long batches waited.

    Whoever can make load moves it: it bounds how often, and `allowed` how far.
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
        """The point that is used now."""
        return self.allowed[self.place]

    def observe(self, waited_ms: float, now: float) -> int:
        """Note a batch's longest wait; -1 stepped up, 1 stepped down, 0 stayed. `now`: seconds, monotonic."""
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
    """A controller (`scheduling.Controller`) that walks the ladder and runs every batch where it stands.

    It looks at what has been, at the longest wait of each batch, and refuses nothing before the queue is full.
    """

    def __init__(self, allowed: tuple[str, ...], target_ms: float) -> None:
        self.allowed = allowed
        self.ladder = Ladder(allowed, target_ms)

    @property
    def name(self) -> str:
        """The point that is used now."""
        return self.ladder.name

    def admits(self, load: Load, images: int) -> bool:
        """Always."""
        return True

    def hold(self, load: Load, window: float) -> float:
        """The whole window."""
        return window

    def decide(self, load: Load) -> Decision:
        """The largest batch at the point where the ladder stands after the wait of the oldest request."""
        step = self.ladder.observe(1e3 * (load.now - load.waiting[0].arrived), load.now)
        return Decision(self.ladder.name, load.most, step)

    def expected(self, point: str, images: int) -> float:
        """0: this controller knows no times."""
        return 0.0

    def observe(self, point: str, images: int, seconds: float) -> None:
        """Nothing: only waits move it."""
