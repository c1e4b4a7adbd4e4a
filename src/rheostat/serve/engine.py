"""Micro-batching: requests wait briefly so that a batch can fill; one worker runs each batch at one point."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rheostat.serve.decoding import Array
from rheostat.serve.scheduling import Controller, Decision, Line, Stopped

log = logging.getLogger("rheostat.serve")

Run = Callable[[Array], Array]
"""(B, C, H, W) → (B, K) probabilities."""
STALLED = 10.0
"""Seconds that one batch may spend in the model before the server reports that it is not ready."""


@dataclass
class _Job:
    images: Array
    arrived: float
    done: asyncio.Future[tuple[str, Array]]
    point: str | None

    @property
    def count(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Served:
    """What the engine reports about a batch: its point, images, seconds in the model, longest wait and ladder step."""

    point: str
    images: int
    seconds: float
    waited: float
    step: int


class Engine:
    """A bounded queue and one worker thread.

    `runs` maps a point's name to its forward pass. A batch holds up to `most` images. It starts when it is full or
    when its oldest request has waited `deadline` seconds, or earlier if the controller says so. The engine asks the
    controller once per batch, so a change of policy is atomic: a batch never runs at two points.
    """

    def __init__(
        self,
        runs: dict[str, Run],
        controller: Controller,
        *,
        most: int = 64,
        queue: int = 512,
        deadline: float = 0.005,
        note: Callable[[Served], None] = lambda served: None,
    ) -> None:
        self.runs, self.note = runs, note
        self.line: Line[_Job] = Line(controller, most=most, room=queue, window=deadline)
        self.arrived = asyncio.Event()
        self.waited_for: set[asyncio.Future[tuple[str, Array]]] = set()
        """The answers that requests wait for, in the queue or in a batch."""
        self.closing = False
        self.worker = ThreadPoolExecutor(1, "rheostat")
        self.task: asyncio.Task[None] | None = None
        self.started: float | None = None
        """When the batch in the model began; None while there is none."""
        self.rate = 0.0
        """Recent throughput in images per second, for Retry-After."""

    def start(self) -> None:
        """Start serving, in the running event loop."""
        self.task = asyncio.get_running_loop().create_task(self._serve())

    @property
    def controller(self) -> Controller:
        """The controller that chooses the point of each batch."""
        return self.line.controller

    @controller.setter
    def controller(self, new: Controller) -> None:
        self.line.controller = new

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self.line.images

    @property
    def ready(self) -> bool:
        """Whether the engine serves batches and the current one has not stalled."""
        if self.started is not None and time.perf_counter() - self.started > STALLED:
            return False
        return self.task is not None and not self.task.done() and not self.closing

    @property
    def failed(self) -> bool:
        """Whether an error has ended the serving of batches; only a new start of the server helps."""
        return self.task is not None and self.task.done() and not self.closing

    async def submit(self, images: Array, point: str | None = None, *, waited: float = 0.0) -> tuple[str, Array]:
        """Return (point used, probabilities (n, K)); raise Full if the queue has no room, Late if it is too slow,
        Stopped if the engine is closed or has failed.

        `waited` is the number of seconds for which load has already delayed the request. Its deadline and its wait
        count from then. A body that is sent slowly, or is slow to decode, delays only its sender: if its time counted,
        a few such requests would move the dial for everybody.
        """
        if self.closing or self.failed:
            raise Stopped
        now = time.perf_counter()
        job = _Job(images, now - waited, asyncio.get_running_loop().create_future(), point)
        self.line.offer(job, now)
        self.waited_for.add(job.done)
        job.done.add_done_callback(self.waited_for.discard)
        self.arrived.set()
        return await job.done

    def retry_after(self) -> int:
        """Seconds after which a refused client should try again."""
        return max(1, min(60, round(self.waiting / self.rate))) if self.rate else 1

    async def close(self) -> None:
        """Finish accepted requests, then stop."""
        self.closing = True
        self.arrived.set()
        try:
            if self.task is not None:
                await self.task
        finally:
            self.worker.shutdown()

    async def _serve(self) -> None:
        """Run batches until the engine is closed. An error outside the model ends it; no request then waits in vain."""
        try:
            await self._batches()
        except Exception:
            log.exception("the server has stopped answering; start it again")
            raise
        finally:
            for done in [*self.waited_for]:
                if not done.done():
                    done.set_exception(Stopped())

    async def _batches(self) -> None:
        while True:
            await self._fill()
            self.line.drop(lambda job: job.done.done())  # the client has left, or the request timed out
            if self.line.jobs:
                begun = time.perf_counter()
                decision, batch = self.line.take(begun)
                await self._run(decision, batch, begun)
            elif self.closing:
                return

    async def _run(self, decision: Decision, batch: list[_Job], begun: float) -> None:
        name, waited, run = decision.point, begun - min(job.arrived for job in batch), self.runs[decision.point]
        parts, count = [job.images for job in batch], decision.images
        started = self.started = time.perf_counter()

        def work() -> Array:  # in the worker, because the event loop answers clients meanwhile
            found = run(np.concatenate(parts) if len(parts) > 1 else parts[0])
            if len(found) != count or not np.isfinite(found).all():
                raise RuntimeError(f"the model's answer at {name} is not finite")
            return found

        try:
            found = await asyncio.get_running_loop().run_in_executor(self.worker, work)
        except Exception as error:
            for job in batch:
                if not job.done.done():
                    job.done.set_exception(error)
            return
        finally:
            self.started = None
            took = time.perf_counter() - started
            self.line.finish(name, count, took)
        rate = count / max(took, 1e-9)
        self.rate = rate if not self.rate else 0.8 * self.rate + 0.2 * rate
        first = 0
        for job in batch:
            part = found[first : first + job.count]
            first += job.count
            if not job.done.done():
                job.done.set_result((name, part))
        self.note(Served(name, count, took, waited, decision.step))

    async def _fill(self) -> None:
        """Wait for a first request, then until the next batch should start."""
        while not self.closing:
            self.arrived.clear()
            now = time.perf_counter()
            left = self.line.starts(now) - now if self.line.jobs else None
            if left is not None and left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), left)
