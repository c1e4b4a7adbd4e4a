"""Simulation: the server's own queue and controllers in simulated time, with measured times for passes.

It is deterministic and fast: an hour of arrivals takes about a second. It leaves out everything except the queue and
the model (HTTP, decoding, timing noise); a replay against a running server includes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rheostat.serve.scheduling import Controller, Full, Line


@dataclass(frozen=True)
class Outcome:
    """One request: its arrival and end (seconds), its point, or None for a 503, and its time in the queue."""

    arrived: float
    ended: float
    point: str | None
    waited: float = 0.0

    @property
    def took(self) -> float:
        """Seconds from arrival to answer."""
        return self.ended - self.arrived


@dataclass
class _Request:
    number: int
    arrived: float
    count: int
    point: None = None


def simulate(
    arrivals: Sequence[float],
    controller: Controller,
    seconds: Callable[[str, int], float],
    *,
    images: int = 1,
    most: int = 64,
    room: int = 512,
    window: float = 0.0,
    lapsed: Callable[[float, float], bool] | None = None,
) -> list[Outcome]:
    """Simulate requests of `images` images each that arrive at these times (seconds, ascending).

    `seconds(point, n)` is the time of a pass of n images. `most`, `room` and `window` are the engine's: the largest
    batch, the number of images that may wait, and the seconds for which a batch may fill. `lapsed(arrived, now)` says
    whether a waiting request is dropped when a batch ends; the engine never drops one.
    """
    line: Line[_Request] = Line(controller, most=most, room=room, window=window)
    outcomes: list[Outcome | None] = [None] * len(arrivals)
    free, running, number, now = -math.inf, None, 0, -math.inf
    while number < len(arrivals) or line.jobs or running is not None:
        comes = arrivals[number] if number < len(arrivals) else math.inf
        begins = line.starts(max(now, line.jobs[0].arrived)) if line.jobs and running is None else math.inf
        now = min(comes, begins, free if running is not None else math.inf)
        if running is not None and free == now:
            line.finish(*running)
            running = None
            if lapsed is not None:
                for job in line.jobs:
                    if lapsed(job.arrived, now):
                        outcomes[job.number] = Outcome(job.arrived, now, None)
                line.drop(lambda job: outcomes[job.number] is not None)
        elif comes == now:
            request = _Request(number, now, images)
            try:
                line.offer(request, now)
            except Full:
                outcomes[number] = Outcome(now, now, None)
            number += 1
        else:
            decision, batch = line.take(now)
            took = seconds(decision.point, decision.images)
            running, free = (decision.point, decision.images, took), now + took
            for job in batch:
                outcomes[job.number] = Outcome(job.arrived, free, decision.point, now - job.arrived)
    assert all(o is not None for o in outcomes)
    return [o for o in outcomes if o is not None]
