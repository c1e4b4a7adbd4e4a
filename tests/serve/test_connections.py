"""Slow, many and endless connections, against a real server in this process, on loopback."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import uvicorn
from fakes import IMAGE, NPY, fake, npy
from fastapi import Request

from rheostat.serve.app import make_app
from rheostat.serve.connections import RECEIVED, Connections, config
from rheostat.serve.decoding import Limits
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy

GOOD = npy(np.zeros((1, *IMAGE), np.float32))


@contextlib.contextmanager
def serving(limits: Connections, options: Options | None = None) -> Iterator[int]:
    """The port of a server under these limits, stopped at the end."""
    server = uvicorn.Server(config(make_app(fake(), Policy(("safe",)), options), "127.0.0.1", 0, limits))
    with started(server) as port:
        yield port


@contextlib.contextmanager
def started(server: uvicorn.Server) -> Iterator[int]:
    """The port of a running server, which is stopped at the end."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        for _ in range(600):
            if server.started:
                break
            time.sleep(0.05)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def wire(port: int, text: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=10)
    found.sendall(text)
    return found


def until_closed(found: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := found.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    limits = Connections(20, header_seconds=0.8, idle_seconds=1.0, header_bytes=8192, write_seconds=1.0)
    with serving(limits, Options(limits=Limits(body_seconds=1.0))) as found:
        yield found


def test_headers_that_never_end_are_closed(port: int) -> None:
    for text in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
        with wire(port, text) as found:
            begun = time.monotonic()
            assert b" 408 " in until_closed(found)
            assert time.monotonic() - begun < 5


def test_a_trickle_does_not_renew_the_time(port: int) -> None:
    with wire(port, b"GET /healthz HTTP/1.1\r\n") as found:
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 5:
                found.sendall(b"A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - begun < 3


def test_a_body_that_nobody_reads_does_not_keep_a_connection(port: int) -> None:
    with wire(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n") as found:
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 8:
                found.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begun < 5


def test_long_headers_are_refused(port: int) -> None:
    with wire(port) as found:
        with contextlib.suppress(ConnectionError):
            found.sendall(b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 2_000_000)
        assert b"200" not in until_closed(found)[:20]


def test_an_idle_connection_ends(port: int) -> None:
    with wire(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as found:
        begun = time.monotonic()
        assert b" 200 " in until_closed(found)
        assert time.monotonic() - begun < 5


def test_half_sent_headers_do_not_starve_the_others(port: int) -> None:
    """Connections beyond the cap are told 503 at once; the others' time ends, and there is room again."""
    held = [wire(port, b"GET / HTTP/1.1\r\n") for _ in range(60)]
    try:
        refused = 0
        for found in held[-5:]:
            found.settimeout(5)
            refused += b" 503 " in until_closed(found)
        assert refused >= 4
        begun = time.monotonic()
        while time.monotonic() - begun < 5:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                    break
            time.sleep(0.1)
        assert time.monotonic() - begun < 4
    finally:
        for found in held:
            found.close()


def test_a_client_that_leaves_is_no_traceback(port: int, caplog) -> None:
    caplog.set_level(logging.INFO)
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
    for _ in range(5):
        wire(port, head).close()
    for _ in range(100):
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        if "rheostat_disconnects_total 5.0" in text:
            break
        time.sleep(0.05)
    assert "rheostat_disconnects_total 5.0" in text
    assert "rheostat_errors_total 0.0" in text
    assert "Traceback" not in caplog.text
    assert httpx.post(f"http://127.0.0.1:{port}/v1/predict", content=GOOD, headers=NPY).status_code == 200


def test_unfinished_bodies_are_bounded_in_sum() -> None:
    limits = Options(bytes_in_flight=2**20, limits=Limits(2**20, body_seconds=2.0))
    with serving(Connections(200), limits) as port:
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"
        held = [wire(port, head + b"x" * 60_000) for _ in range(40)]
        try:
            answers = b""
            for found in held:
                found.settimeout(6)
                with contextlib.suppress(OSError):
                    answers += found.recv(4096)
            assert answers.count(b" 503 ") >= 20
            assert answers.count(b" 408 ") >= 10
        finally:
            for found in held:
                found.close()
        assert httpx.post(f"http://127.0.0.1:{port}/v1/predict", content=GOOD, headers=NPY).status_code == 200


def test_no_handler_of_the_process_is_closed() -> None:
    """uvicorn's own configuration closes all of them, and a handler of absl's closes standard error with it."""

    class Handler(logging.Handler):
        ended = False

        def close(self) -> None:
            self.ended = True
            super().close()

    log, handler = logging.getLogger("a user's"), Handler()
    log.addHandler(handler)
    config(make_app(fake(), Policy(("safe",))), "127.0.0.1", 0)
    log.removeHandler(handler)
    assert not handler.ended


def test_a_request_carries_the_time_of_its_last_bytes() -> None:
    """Headers and half of a body at once, the rest half a second later: the time is that of the rest."""
    app = make_app(fake(), Policy(("safe",)))

    @app.post("/age")
    async def age(request: Request) -> dict[str, float]:
        await request.body()
        return {"age": time.perf_counter() - request.scope[RECEIVED]}

    server = uvicorn.Server(config(app, "127.0.0.1", 0, Connections()))
    with started(server) as port, wire(port, b"POST /age HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab") as found:
        time.sleep(0.5)
        found.sendall(b"cd")
        answer = found.recv(65536)
        assert 0 <= float(answer.rpartition(b":")[2].rstrip(b"}")) < 0.4
