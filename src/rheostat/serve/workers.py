"""The processes that decode images for the service. A process that does not answer in time is killed and replaced."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rheostat.data import images
from rheostat.serve import image_worker
from rheostat.serve.decoding import IMAGES, TENSOR, Array, Limits, Refusal, as_batch, check_kind, tensor

START = 60.0
"""Seconds that a process may take to start."""
STALLED = 1.0
"""Seconds without an answer after which a process counts as stalled."""
LINE = 4096
"""Maximum bytes of the first line of an answer."""


class _Worker:
    """One process, started by the first request to it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.since: float | None = None

    def ask(self, question: dict[str, object], body: bytes, expected: int, seconds: float) -> bytes:
        """Return the answer's pixels; Refusal with the process's own message, or if it took too long."""
        process = self.started()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        self.since = time.monotonic()
        timer.start()
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n" + body)
            process.stdin.flush()
            # The process reads untrusted bytes, so its answer is not trusted either.
            answer = json.loads(process.stdout.readline(LINE))
            if "problem" in answer:
                raise Refusal(413 if answer.get("large") is True else 422, str(answer["problem"])[:300])
            pixels = process.stdout.read(expected) if answer.get("bytes") == expected else b""
            if len(pixels) != expected:
                raise ValueError("incomplete answer")
            return pixels
        except (OSError, ValueError, TypeError, AttributeError):
            self.end()
            if late.is_set():
                raise Refusal(422, f"the image takes more than {seconds:g} s to decode") from None
            raise Refusal(422, "the image crashes its decoder") from None
        finally:
            timer.cancel()
            self.since = None
            if late.is_set():
                self.end()

    def started(self) -> subprocess.Popen[bytes]:
        """The running process, started if necessary."""
        if self.process is None or self.process.poll() is not None:
            self.end()
            kept = {k: v for k, v in os.environ.items() if not k.startswith("RHEOSTAT")}
            process = self.process = subprocess.Popen(
                [sys.executable, "-P", image_worker.__file__, str(Path(images.__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=kept,
                # Ctrl-C should reach the server only, which first finishes accepted requests.
                start_new_session=True,
            )
            assert process.stdout is not None
            timer = threading.Timer(START, process.kill)
            timer.start()
            try:
                if process.stdout.readline(LINE) != image_worker.READY:
                    self.end()
                    raise RuntimeError("the process that decodes images does not start")
            finally:
                timer.cancel()
        return self.process

    def end(self) -> None:
        """Kill the process if it exists."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        self.process = None


class Decoders:
    """A pool of decoder processes. At most `waiting` requests use or await one; `killed` is called after a kill."""

    def __init__(
        self, count: int = 2, *, seconds: float = 2.0, waiting: int = 64, killed: Callable[[], None] = lambda: None
    ) -> None:
        if count < 1:
            raise ValueError(f"decoders must be at least 1, given {count}")
        self.seconds, self.waiting, self.killed = seconds, waiting, killed
        self.workers = [_Worker() for _ in range(count)]
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self.idle.put(worker)
        self.threads = ThreadPoolExecutor(count, "rheostat-images")
        self.asked = 0

    def start(self) -> None:
        """Start the processes now instead of at the first image."""
        for worker in self.workers:
            worker.started()

    def close(self) -> None:
        """End all processes."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.workers:
            worker.end()

    @property
    def ready(self) -> bool:
        """Whether at least one process is idle or has not stalled."""
        now = time.monotonic()
        return any(since is None or now - since < STALLED for since in [w.since for w in self.workers])

    async def decode(
        self, body: bytes, kind: str, image: tuple[int, int, int], limits: Limits, resize: str = "stretch"
    ) -> Array:
        """Decode a request's body as `decoding.decode` does, but images in a separate process."""
        kind = check_kind(body, kind)
        if kind == TENSOR:
            return await asyncio.to_thread(tensor, body, image, limits)
        if self.asked >= self.waiting:
            raise Refusal(503, "too many images are waiting to be decoded")
        channels, height, width = image
        question: dict[str, object] = {
            "bytes": len(body),
            "formats": [IMAGES[kind]],
            "mode": "L" if channels == 1 else "RGB",
            "most_pixels": limits.max_pixels,
            "width": width,
            "height": height,
            "resize": resize,
        }
        expected = width * height * (1 if channels == 1 else 3)
        self.asked += 1
        try:
            pixels = await asyncio.get_running_loop().run_in_executor(self.threads, self._ask, question, body, expected)
        finally:
            self.asked -= 1
        return as_batch(pixels, image)

    def _ask(self, question: dict[str, object], body: bytes, expected: int) -> bytes:
        worker = self.idle.get()
        try:
            return worker.ask(question, body, expected, self.seconds)
        finally:
            if worker.process is None:
                self.killed()
            self.idle.put(worker)
