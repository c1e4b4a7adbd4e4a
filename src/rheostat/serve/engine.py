"""Micro-batches: requests wait a moment so that a batch can fill; one worker runs it at one point."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rheostat.serve.decoding import Array
from rheostat.serve.scheduling import Controller, Decision, Full, Line

Run = Callable[[Array], Array]
"""(B, C, H, W) → (B, K) probabilities."""
STALLED = 10.0
"""Seconds of one batch in the model after which the server is not ready."""


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
    """What the engine tells of a batch: its point, images, seconds in the model, longest wait, a ladder step."""

    point: str
    images: int
    seconds: float
    waited: float
    step: int


class Engine:
    """A bounded queue and one worker thread.

    `runs`: point name → pass. A batch takes up to `most` images and starts when it is full or when its
    oldest request has waited `deadline` seconds, less where the controller says so. The controller is asked
    once per batch, so a change of policy is atomic: no batch stands at two points.
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
        self.closing = False
        self.worker = ThreadPoolExecutor(1, "rheostat")
        self.task: asyncio.Task[None] | None = None
        self.started: float | None = None
        """When the batch that now is in the model began."""
        self.rate = 0.0
        """Images a second of late, for Retry-After."""

    def start(self) -> None:
        """Begin to serve, in the running loop."""
        self.task = asyncio.get_running_loop().create_task(self._serve())

    @property
    def controller(self) -> Controller:
        """What chooses the point of a batch."""
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
        """Whether batches are being served, and the one in the model has not been there for long."""
        if self.started is not None and time.perf_counter() - self.started > STALLED:
            return False
        return self.task is not None and not self.task.done() and not self.closing

    async def submit(self, images: Array, point: str | None = None) -> tuple[str, Array]:
        """(point used, probabilities (n, K)); Full if there is no room for these images, Late if no time."""
        if self.closing:
            raise Full
        # The clock starts here and not at the headers: a body that is sent slowly uses up its sender's time alone.
        now = time.perf_counter()
        job = _Job(images, now, asyncio.get_running_loop().create_future(), point)
        self.line.offer(job, now)
        self.arrived.set()
        return await job.done

    def retry_after(self) -> int:
        """Seconds after which a refused request has a chance."""
        return max(1, min(60, round(self.waiting / self.rate))) if self.rate else 1

    async def close(self) -> None:
        """Finish what was accepted, then stop."""
        self.closing = True
        self.arrived.set()
        if self.task is not None:
            await self.task
        self.worker.shutdown()

    async def _serve(self) -> None:
        while True:
            await self._fill()
            self.line.drop(lambda job: job.done.done())  # whoever asked has left, or their time was up
            if self.line.jobs:
                begun = time.perf_counter()
                decision, batch = self.line.take(begun)
                await self._run(decision, batch, begun)
            elif self.closing:
                return

    async def _run(self, decision: Decision, batch: list[_Job], begun: float) -> None:
        name, waited = decision.point, begun - batch[0].arrived
        images = np.concatenate([j.images for j in batch]) if len(batch) > 1 else batch[0].images
        started = self.started = time.perf_counter()
        try:
            found = await asyncio.get_running_loop().run_in_executor(self.worker, self.runs[name], images)
            if len(found) != len(images) or not np.isfinite(found).all():
                raise RuntimeError(f"the model's answer at {name} is not finite")
        except Exception as error:
            for job in batch:
                if not job.done.done():
                    job.done.set_exception(error)
            return
        finally:
            self.started = None
            took = time.perf_counter() - started
            self.line.finish(name, len(images), took)
        rate = len(images) / max(took, 1e-9)
        self.rate = rate if not self.rate else 0.8 * self.rate + 0.2 * rate
        first = 0
        for job in batch:
            part = found[first : first + job.count]
            first += job.count
            if not job.done.done():
                job.done.set_result((name, part))
        self.note(Served(name, len(images), took, waited, decision.step))

    async def _fill(self) -> None:
        """Wait for a first request, then until the next batch should begin."""
        while not self.closing:
            self.arrived.clear()
            now = time.perf_counter()
            left = self.line.starts(now) - now if self.line.jobs else None
            if left is not None and left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), left)
