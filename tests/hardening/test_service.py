"""A server on loopback under hostile bodies, connections and load: what it answers, and whether others are served."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import uvicorn
from hostile_bodies import BODIES, IMAGE, npy

from rheostat.serve.app import make_app
from rheostat.serve.connections import Connections, config
from rheostat.serve.decoding import Limits
from rheostat.serve.ladder import LATE_FOR
from rheostat.serve.options import Options, Service
from rheostat.serve.policy import Policy

pytestmark = pytest.mark.slow
KINDS = 76
"""Kinds of hostile body of the trial that this one repeats; it sent 5 000 in a row and held 2 000 connections."""
HELD = 2000
MEASURED = {"safe": {"robust_bound": 0.55}, "balanced": {"robust_bound": 0.4}, "fast": {"robust_bound": 0.01}}
NPY = {"Content-Type": "application/x-npy"}


def work(images: np.ndarray) -> np.ndarray:
    time.sleep(0.02)
    return np.full((len(images), 10), 0.1, np.float32)


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    classes = tuple(str(i) for i in range(10))
    service = Service(dict.fromkeys(MEASURED, work), {n: {} for n in MEASURED}, MEASURED, classes, IMAGE, "none")
    options = Options(limits=Limits(2**20, body_seconds=2.0), bytes_in_flight=2**25, request_seconds=10.0)
    app = make_app(service, Policy(("safe", "balanced", "fast"), 1.0, controller="steps"), options)
    limits = Connections(200, header_seconds=2.0, idle_seconds=3.0)
    made = uvicorn.Server(config(app, "127.0.0.1", 0, limits))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    while not made.started:
        time.sleep(0.05)
    port = made.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", port
    made.should_exit = True
    thread.join(60)


def test_hostile_bodies_are_refused_and_others_are_served(
    server: tuple[str, int], seconds: float, table: dict[str, Counter[str]]
) -> None:
    url, _ = server
    assert len(BODIES) > KINDS
    stop, waits = threading.Event(), []
    outcomes = table.setdefault(f"hostile bodies of {len(BODIES)} kinds", Counter())

    def honest() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                begun = time.monotonic()
                answer = client.post(f"{url}/v1/predict", content=npy(np.zeros((1, *IMAGE), np.float32)), headers=NPY)
                assert answer.status_code == 200
                waits.append(time.monotonic() - begun)

    thread = threading.Thread(target=honest)
    thread.start()
    try:
        with httpx.Client(timeout=30) as client:
            end = time.monotonic() + 3 * seconds
            while time.monotonic() < end:
                for kind, (body, form) in BODIES.items():
                    answer = client.post(f"{url}/v1/predict", content=body, headers={"Content-Type": form})
                    outcomes[str(answer.status_code)] += 1
                    assert answer.status_code < 500, kind
    finally:
        stop.set()
        thread.join()
    assert waits
    assert max(waits) < 5
    table["served meanwhile"] = Counter({f"200, at most {max(waits):.2f} s": len(waits)})
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert "rheostat_errors_total 0.0" in httpx.get(f"{url}/metrics").text


def test_raw_bytes_are_answered_or_closed(
    server: tuple[str, int], seconds: float, table: dict[str, Counter[str]]
) -> None:
    url, port = server
    draw, end = random.Random(0), time.monotonic() + seconds
    good = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\nabc"
    outcomes = table.setdefault("raw requests", Counter())
    while time.monotonic() < end:
        raw = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        answer = b""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            wire.sendall(raw)
            wire.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                answer = wire.recv(4096)
        status = answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/") else "closed"
        outcomes[status] += 1
        assert status == "closed" or int(status) < 500
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_connections_that_say_nothing_do_not_starve_the_server(
    server: tuple[str, int], table: dict[str, Counter[str]]
) -> None:
    url, port = server
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 3 * HELD)), hard))
    held = []
    try:
        for _ in range(HELD):
            wire = socket.create_connection(("127.0.0.1", port), timeout=10)
            held.append(wire)
            with contextlib.suppress(ConnectionError):  # one beyond the cap is told 503 and closed
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        begun = time.monotonic()
        while time.monotonic() - begun < 20:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/healthz", timeout=5).status_code == 200:
                    break
            time.sleep(0.1)
        waited = time.monotonic() - begun
    finally:
        for wire in held:
            wire.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert waited < 10
    table["half-sent headers"] = Counter({f"held; others served after {waited:.1f} s": HELD})


def test_load_brings_the_server_to_its_floor_and_no_further(
    server: tuple[str, int], seconds: float, table: dict[str, Counter[str]]
) -> None:
    """Three connections once held it at a point of 0.01 within 0.2 s."""
    url, _ = server
    outcomes = table.setdefault("images under load, by point", Counter())
    lock, begun = threading.Lock(), time.monotonic()
    first: list[float] = []

    def load() -> None:
        with httpx.Client(timeout=30) as client:
            while time.monotonic() - begun < max(3.0, seconds):
                body = npy(np.zeros((64, *IMAGE), np.float32))
                answer = client.post(f"{url}/v1/predict", content=body, headers=NPY)
                with lock:
                    point = answer.json()["point"] if answer.status_code == 200 else str(answer.status_code)
                    outcomes[point] += 1
                    if point == "balanced" and not first:
                        first.append(time.monotonic() - begun)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"safe", "balanced", "503"}
    assert not first or first[0] >= LATE_FOR / 2
