"""Nothing is lost: a replay while policies change, the server is killed, and clients are slow, gone or too many."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes import BEARER, IMAGE, NPY, npy
from test_serve import environment, model_file  # noqa: F401  (the fixture of a model with three points)

from rheostat.models import artifact

NAMES = ("safe", "balanced", "fast")
SECONDS = 20.0
BURST = 40


class Server:
    """A server that can be killed and started again at its address."""

    def __init__(self, file: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable,
            "-m",
            "rheostat",
            "serve",
            str(file),
            "--port",
            str(self.port),
            "--threads",
            "1",
        ]
        self.command += ["--ladder", ",".join(NAMES), "--backend", "torch", "--queue", "64", "--max-batch", "16"]
        self.command += ["--min-robust", "0", "--body-seconds", "2", "--request-seconds", "5", "--target-ms", "400"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(300):
            if self.process.poll() is not None:
                assert self.process.stderr is not None
                raise AssertionError(self.process.stderr.read().decode())
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.mark.slow
def test_nothing_is_lost_and_every_answer_is_its_points(model_file: Path) -> None:  # noqa: F811
    # The three points must answer differently, or a wrong point could not be seen.
    x = np.random.default_rng(0).random((4, *IMAGE)).astype(np.float32)
    model = artifact.load(model_file)
    import torch

    expected = {n: model.at(n).probabilities(torch.from_numpy(x)).numpy() for n in NAMES}
    gaps = [np.abs(expected[a] - expected[b]).max() for a, b in (("safe", "balanced"), ("balanced", "fast"))]
    assert min(gaps) > 1e-3
    server = Server(model_file)
    killed = threading.Event()
    stop = threading.Event()
    lock = threading.Lock()
    statuses: Counter[object] = Counter()
    wrong: list[str] = []
    slowest = [0.0]
    ended = [0]

    def ask(client: httpx.Client) -> None:
        begun = time.monotonic()
        try:
            answer = client.post(f"{server.url}/v1/predict", content=npy(x), headers=NPY)
        except httpx.TransportError as error:
            # Only a server that is being killed may drop a connection.
            with lock:
                statuses["lost" if not killed.is_set() else "while killed"] += 1
                if isinstance(error, httpx.TimeoutException):
                    wrong.append("a request hung")
            time.sleep(0.05)
            return
        with lock:
            statuses[answer.status_code] += 1
            slowest[0] = max(slowest[0], time.monotonic() - begun)
            if answer.status_code == 200:
                found = answer.json()
                gap = np.abs(np.array(found["probabilities"]) - expected[found["point"]]).max()
                if gap > 1e-4:
                    wrong.append(f"an answer that is not of {found['point']}")

    def steady() -> None:
        with httpx.Client(timeout=15) as client:
            while not stop.is_set():
                ask(client)
                time.sleep(0.01)
        with lock:
            ended[0] += 1

    def burst() -> None:
        """More at once than the queue holds."""
        with httpx.Client(timeout=15) as client:
            ask(client)

    def rude() -> None:
        """Clients that send half a body, and clients that leave before their answer."""
        body = npy(x)
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\nContent-Length: %d\r\n\r\n"
        kept = []
        while not stop.is_set():
            with contextlib.suppress(OSError):
                wire = socket.create_connection(("127.0.0.1", server.port), timeout=5)
                wire.sendall(head % len(body) + body[: len(body) // 2])
                kept.append(wire)
                with socket.create_connection(("127.0.0.1", server.port), timeout=5) as gone:
                    gone.sendall(head % len(body) + body)
            time.sleep(0.1)
        for wire in kept:
            wire.close()

    threads = [threading.Thread(target=t) for t in (steady, steady, steady, rude)]
    for thread in threads:
        thread.start()
    changes, begun = 0, time.monotonic()
    try:
        with httpx.Client(timeout=15) as client:
            for i in range(50):
                if i in (17, 34):
                    killed.set()
                    server.kill()
                    server.start()
                    killed.clear()
                    now = client.get(f"{server.url}/v1/points").json()["policy"]
                    assert now["ladder"][0] == NAMES[(i - 1) % 3], "the policy comes back after a crash"
                if i % 10 == 5:
                    crowd = [threading.Thread(target=burst) for _ in range(BURST)]
                    for thread in crowd:
                        thread.start()
                    for thread in crowd:
                        thread.join(30)
                        assert not thread.is_alive()
                ladder = [NAMES[(i + k) % 3] for k in range(3)]
                policy = {
                    "ladder": ladder,
                    "min_robust": 0,
                    "controller": ("goodput", "slack", "steps")[i % 3],
                    "target_ms": 400,
                }
                answer = client.put(f"{server.url}/v1/policy", json=policy, headers=BEARER)
                changes += answer.status_code == 200
                time.sleep(max(0.0, begun + SECONDS * i / 50 - time.monotonic()))
            assert client.get(f"{server.url}/readyz").status_code == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        server.kill()
    assert changes == 50
    assert not wrong, Counter(wrong)
    assert ended[0] == 3, "a client still waits"
    assert statuses["lost"] == 0
    assert set(statuses) <= {200, 503, "while killed", "lost"}, statuses
    assert statuses[200] > 100
    assert slowest[0] < 10
