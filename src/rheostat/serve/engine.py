"""Micro-batches: requests wait a moment so that a batch can fill; one worker runs it at one point."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rheostat.serve.decoding import Array
from rheostat.serve.ladder import Ladder

Run = Callable[[Array], Array]
"""(B, C, H, W) → (B, K) probabilities."""
STALLED = 10.0
"""Seconds of one batch in the model after which the server is not ready."""


class Full(Exception):
    """The queue holds as many images as it may."""


@dataclass
class _Job:
    images: Array
    arrived: float
    done: asyncio.Future[tuple[str, Array]]
    point: str | None


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
    oldest request has waited `deadline` seconds. The point is read once per batch, so a change of
    policy is atomic: no batch stands at two points.
    """

    def __init__(
        self,
        runs: dict[str, Run],
        ladder: Ladder,
        *,
        most: int = 64,
        queue: int = 512,
        deadline: float = 0.005,
        note: Callable[[Served], None] = lambda served: None,
    ) -> None:
        self.runs, self.ladder = runs, ladder
        self.most, self.queue, self.deadline, self.note = most, queue, deadline, note
        self.jobs: deque[_Job] = deque()
        self.waiting = 0
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
    def ready(self) -> bool:
        """Whether batches are being served, and the one in the model has not been there for long."""
        if self.started is not None and time.perf_counter() - self.started > STALLED:
            return False
        return self.task is not None and not self.task.done() and not self.closing

    async def submit(self, images: Array, point: str | None = None) -> tuple[str, Array]:
        """(point used, probabilities (n, K)); Full if the queue has no room for these images."""
        if self.closing or self.waiting + len(images) > self.queue:
            raise Full
        loop = asyncio.get_running_loop()
        job = _Job(images, time.perf_counter(), loop.create_future(), point)
        self.jobs.append(job)
        self.waiting += len(images)
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
        loop = asyncio.get_running_loop()
        while True:
            if not self.jobs:
                if self.closing:
                    return
                self.arrived.clear()
                await self.arrived.wait()
                continue
            batch = [job for job in await self._gather() if not job.done.done()]
            if not batch:
                continue  # whoever asked has left, or their time was up
            waited = time.perf_counter() - batch[0].arrived
            step = self.ladder.observe(1e3 * waited, time.monotonic())
            name = batch[0].point or self.ladder.name
            images = np.concatenate([j.images for j in batch]) if len(batch) > 1 else batch[0].images
            started = self.started = time.perf_counter()
            try:
                found = await loop.run_in_executor(self.worker, self.runs[name], images)
                if len(found) != len(images) or not np.isfinite(found).all():
                    raise RuntimeError(f"the model's answer at {name} is not finite")
            except Exception as error:
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            finally:
                self.started = None
            took = time.perf_counter() - started
            rate = len(images) / max(took, 1e-9)
            self.rate = rate if not self.rate else 0.8 * self.rate + 0.2 * rate
            first = 0
            for job in batch:
                part = found[first : first + len(job.images)]
                first += len(job.images)
                if not job.done.done():
                    job.done.set_result((name, part))
            self.note(Served(name, len(images), took, waited, step))

    async def _gather(self) -> list[_Job]:
        """The next batch: whole requests, all for one point, in order of arrival."""
        while not self.closing and self.waiting < self.most:
            left = self.jobs[0].arrived + self.deadline - time.perf_counter()
            if left <= 0:
                break
            self.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), left)
        batch, count = [self.jobs.popleft()], 0
        count = len(batch[0].images)
        while self.jobs and count + len(self.jobs[0].images) <= self.most and self.jobs[0].point == batch[0].point:
            batch.append(self.jobs.popleft())
            count += len(batch[-1].images)
        self.waiting -= count
        return batch
