"""One replay over HTTP: requests leave at the times of a trace, whatever the answers, against a running server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from serve_judging import Requests

from rheostat.serve.simulation import Outcome

Pixels = npt.NDArray[np.float32]
CONNECTIONS = 64
"""Connections that are open before the first request."""


@contextlib.contextmanager
def server(file: Path, ladder: Sequence[str], *options: str, threads: int = 1) -> Iterator[str]:
    """A server of these points in a process of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rheostat", "serve", str(file), "--port", str(port), "--ladder", ",".join(ladder)]
    command += ["--backend", "onnx"]  # the runtime whose times give the deadline and the load
    # Of its own, so that no policy of an earlier server comes back.
    state = tempfile.TemporaryDirectory()
    command += ["--threads", str(threads), "--state", str(Path(state.name) / "policy.json"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(f"the server ended: {' '.join(command)}")
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()
        state.cleanup()


@dataclass
class Replay:
    """What came of a replay: an outcome for each request, the share of right images, statuses, attacks that fitted."""

    outcomes: list[Outcome]
    right: npt.NDArray[np.float64]
    statuses: dict[int, int]
    aimed: float
    """The share of answered attacked requests whose images were attacked at the very point that answered."""


def npy(images: npt.NDArray[np.float32] | npt.NDArray[np.uint8]) -> bytes:
    """A body of application/x-npy."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


class _Connection(asyncio.Protocol):
    """A persistent connection that carries one request at a time, and reads its answer with little work."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes, float]] | None = None
        self.read = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.answer is None or self.answer.done():
            return  # no request is waiting: the server says that it closes an idle connection
        self.read += data
        head = self.read.find(b"\r\n\r\n")
        if head < 0:
            return
        length = int(self.read[:head].lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self.read) >= head + 4 + length:
            status, body = int(self.read[9:12]), bytes(self.read[head + 4 :])
            self.read.clear()
            self.answer.set_result((status, body, time.perf_counter()))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server closed the connection without an answer"))

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes, float]]:
        """Send a request; (status, body, time at which the answer was complete)."""
        self.answer = asyncio.get_running_loop().create_future()
        assert isinstance(self.transport, asyncio.WriteTransport)
        self.transport.write(request)
        return self.answer


class _Pool:
    """Connections to one server: the one used last is used first, and all busy means one more."""

    def __init__(self, port: int) -> None:
        self.port, self.idle = port, list[_Connection]()

    async def open(self, count: int) -> None:
        """Open connections in advance, as a proxy in front of a service does."""
        self.idle += [await self._new() for _ in range(count)]

    async def ask(self, request: bytes) -> tuple[int, bytes, float]:
        """Send a request on an idle connection, and again on the next one if the server closes that while it idles."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                with contextlib.suppress(ConnectionError):
                    return await self._asked(connection, request)
        return await self._asked(await self._new(), request)

    async def _asked(self, connection: _Connection, request: bytes) -> tuple[int, bytes, float]:
        found = await connection.ask(request)
        self.idle.append(connection)
        return found

    async def _new(self) -> _Connection:
        _, made = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self.port)
        return made


def request(port: int, body: bytes) -> bytes:
    """The bytes of a POST to the service."""
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/x-npy\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def replay(
    url: str,
    arrivals: Sequence[float],
    requests: Requests,
    clean: Pixels,
    attacked: Mapping[str, Pixels],
    labels: Sequence[str],
    *,
    first: str,
) -> Replay:
    """Send every request at its time. The attacker attacks the point that the last answer named, `first` at first.

    The client shares the machine with the server, so everything that can be done before or after the replay is.
    """
    port = int(url.rpartition(":")[2])
    # Photographs have 8 bits; an attacker sends every bit of an image.
    bodies = [
        {name: request(port, npy(images[chosen])) for name, images in attacked.items()}
        if wanted
        else dict.fromkeys(attacked, request(port, npy(np.round(255 * clean[chosen]).astype(np.uint8))))
        for chosen, wanted in zip(requests.images, requests.attacked, strict=True)
    ]
    answers: list[tuple[int, bytes, float, str]] = [(0, b"", 0.0, "")] * len(arrivals)
    last = first.encode()
    pool = _Pool(port)
    await pool.open(CONNECTIONS)
    begun = time.perf_counter() + 0.1

    async def one(i: int, target: str) -> None:
        nonlocal last
        status, body, ended = await pool.ask(bodies[i][target])
        answers[i] = (status, body, ended - begun, target)
        if status == 200:
            last = body[: body.index(b'",')].rpartition(b'"')[2]

    tasks = []
    for i, at in enumerate(arrivals):
        await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
        tasks.append(asyncio.create_task(one(i, last.decode())))
    await asyncio.gather(*tasks)
    for connection in pool.idle:
        connection.transport.close()

    outcomes: list[Outcome] = []
    right, aims = np.zeros(len(arrivals)), []
    for i, (status, body, ended, target) in enumerate(answers):
        if status != 200:
            outcomes.append(Outcome(arrivals[i], ended, None))
            continue
        found = json.loads(body)
        outcomes.append(Outcome(arrivals[i], ended, found["point"]))
        truth = [labels[k] for k in requests.images[i]]
        right[i] = np.mean([a == b for a, b in zip(found["labels"], truth, strict=True)])
        if requests.attacked[i]:
            aims.append(found["point"] == target)
    statuses = [status for status, *_ in answers]
    counted = {s: statuses.count(s) for s in sorted(set(statuses))}
    return Replay(outcomes, right, counted, float(np.mean(aims)) if aims else float("nan"))
