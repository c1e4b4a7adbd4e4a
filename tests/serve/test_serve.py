"""A real server: predictions, policy, kills, overload, bodies."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fakes import BEARER, IMAGE, MEASURED, NPY, TOKEN, npy
from PIL import Image
from test_decoding import picture

from rheostat.data import to_pixels
from rheostat.models import artifact
from rheostat.points.point import Point


def environment() -> dict[str, str]:
    """A server's surroundings: one thread, the token of these tests."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "RHEOSTAT_TOKEN": TOKEN}


GOOD = np.zeros((2, *IMAGE), np.float32)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """The packaged model with three named points."""
    file = tmp_path_factory.mktemp("serve") / "model.safetensors"
    shutil.copy(artifact.packaged()["oat-digits"], file)
    for name, t in (("safe", 1.0), ("balanced", 0.5), ("fast", 0.0)):
        artifact.name_point(file, name, Point(robustness=t), MEASURED[name])
    return file


@contextlib.contextmanager
def served(file: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """A real server of the command line in a process of its own; kill it with what it is given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "rheostat",
        "serve",
        str(file),
        "--port",
        str(port),
        "--threads",
        "1",
        "--ladder",
        "safe,balanced,fast",
        "--backend",
        "torch",
        *more,
    ]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read().decode())
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture(scope="module")
def server(model_file: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    with served(model_file, "--max-mb", "0.5", "--body-seconds", "1") as found:
        yield found


def test_predictions_are_those_of_the_point(server, model_file: Path, digits) -> None:
    url, _ = server
    x = to_pixels(digits[1].images[:20])
    model = artifact.load(model_file)
    found = httpx.post(f"{url}/v1/predict", content=npy(x.numpy()), headers=NPY).json()
    assert found["point"] == "safe"
    assert found["at"] == {"robustness": 1.0}
    expected = model.at("safe").probabilities(x)
    assert torch.allclose(torch.tensor(found["probabilities"]), expected, atol=1e-5)
    assert [int(v) for v in found["labels"]] == expected.argmax(1).tolist()
    whole = (x[:1] * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(whole[0, 0].numpy()).save(buffer, "PNG")
    single = httpx.post(f"{url}/v1/predict", content=buffer.getvalue(), headers={"Content-Type": "image/png"}).json()
    assert single["labels"] == found["labels"][:1]
    listed = httpx.get(f"{url}/v1/points").json()
    assert listed["current"] == "safe"
    assert listed["points"]["fast"]["measured"] == MEASURED["fast"]
    text = httpx.get(f"{url}/metrics").text
    assert 'rheostat_images_total{point="safe"}' in text
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_the_dial_is_policy(server) -> None:
    url, _ = server
    body = npy(GOOD)
    assert httpx.post(f"{url}/v1/predict?point=fast", content=body, headers=NPY).status_code == 403
    policy = {"ladder": ["balanced"], "target_ms": 40}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        assert httpx.put(f"{url}/v1/policy", json=policy, headers=headers).status_code == 401
    assert httpx.put(f"{url}/v1/policy", json={"ladder": ["nobody"]}, headers=BEARER).status_code == 422
    assert httpx.put(f"{url}/v1/policy", content=b"{", headers=BEARER).status_code == 400
    assert httpx.put(f"{url}/v1/policy", content=b"[" * 100000, headers=BEARER).status_code == 400
    assert httpx.put(f"{url}/v1/policy", content=b" " * 600000, headers=BEARER).status_code == 413
    assert httpx.put(f"{url}/v1/policy", json=policy, headers=BEARER).status_code == 200
    assert httpx.post(f"{url}/v1/predict", content=body, headers=NPY).json()["point"] == "balanced"
    assert httpx.put(f"{url}/v1/policy", json={"ladder": ["safe", "fast"]}, headers=BEARER).status_code == 200


def test_policy_changes_under_load_drop_nothing(server) -> None:
    url, _ = server
    stop, found, problems = threading.Event(), [], []
    valid: list[tuple[float, str]] = []

    def load() -> None:
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                begun = time.monotonic()
                answer = client.post(f"{url}/v1/predict", content=npy(GOOD), headers=NPY)
                if answer.status_code == 200:
                    found.append((begun, time.monotonic(), answer.json()["point"]))
                else:
                    problems.append(answer.status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    names = ("safe", "balanced", "fast")
    with httpx.Client(timeout=20) as client:
        for i in range(50):
            name = names[i % 3]
            begun = time.monotonic()
            answer = client.put(f"{url}/v1/policy", json={"ladder": [name], "target_ms": 10000}, headers=BEARER)
            valid.append((begun, time.monotonic(), name))
            assert answer.status_code == 200
            time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(found) > 50
    for begun, ended, point in found:
        # Valid at some moment between the request's start and its answer.
        held = [
            n for i, (a, _, n) in enumerate(valid) if a <= ended and (i + 1 == len(valid) or valid[i + 1][1] >= begun)
        ]
        assert point in held or begun < valid[0][1]


@pytest.mark.slow
def test_a_killed_server_comes_back_as_it_was(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(model_file, file)
    with served(file) as (url, process):
        answer = httpx.put(f"{url}/v1/policy", json={"ladder": ["balanced", "fast"], "min_robust": 0.2}, headers=BEARER)
        assert answer.status_code == 200
        process.send_signal(signal.SIGKILL)
        process.wait()
    # A long deadline keeps requests in the queue when the polite end comes.
    with served(file, "--deadline-ms", "2500") as (url, process):
        now = httpx.get(f"{url}/v1/points").json()
        assert now["policy"]["ladder"] == ["balanced", "fast"]
        assert now["policy"]["min_robust"] == 0.2
        assert now["current"] == "balanced"
        # A polite end finishes what was accepted.
        answers = []

        def ask() -> None:
            answer = httpx.post(f"{url}/v1/predict", content=npy(GOOD), headers=NPY, timeout=20)
            answers.append(answer.status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1.2)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert answers == [200] * 8


@pytest.mark.slow
def test_overload_is_refused_and_nothing_hangs(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(model_file, file)
    body, statuses, waits = npy(np.zeros((64, *IMAGE), np.float32)), [], []
    # A target that every batch misses on every machine, so that the ladder must step.
    with served(file, "--queue", "128", "--target-ms", "0.001", "--controller", "steps") as (url, _):

        def load() -> None:
            with httpx.Client(timeout=20) as client:
                while time.monotonic() - started < 4:  # longer than batches must be late before the ladder steps
                    begun = time.monotonic()
                    answer = client.post(f"{url}/v1/predict", content=body, headers=NPY)
                    waits.append(time.monotonic() - begun)
                    statuses.append(answer.status_code)
                    if answer.status_code == 503:
                        assert int(answer.headers["retry-after"]) >= 1

        started = time.monotonic()
        threads = [threading.Thread(target=load) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        text = httpx.get(f"{url}/metrics").text
        assert 'rheostat_ladder_steps_total{direction="down"}' in text
        assert httpx.get(f"{url}/readyz").status_code == 200
    assert len(statuses) > 100
    assert set(statuses) == {200, 503}
    assert max(waits) < 10


@pytest.mark.slow
def test_ten_thousand_malformed_bodies(server) -> None:
    url, process = server
    draw = random.Random(0)
    good = [npy(GOOD), picture("PNG"), picture("JPEG"), picture("WEBP")]
    kinds = [NPY["Content-Type"], "image/png", "image/jpeg", "image/webp", "application/json", ""]

    def memory() -> int:
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(next(x for x in text.splitlines() if x.startswith("VmRSS")).split()[1])

    def one(client: httpx.Client) -> int:
        body = bytearray(draw.choice(good))
        for _ in range(draw.randint(1, 12)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        cut = bytes(body[: draw.randint(0, len(body))] if draw.random() < 0.5 else body)
        kind = draw.choice(kinds)
        return client.post(f"{url}/v1/predict", content=cut, headers={"Content-Type": kind}).status_code

    seen: set[int] = set()
    with httpx.Client(timeout=20) as client:
        for _ in range(1500):
            seen.add(one(client))
        before = memory()
        for _ in range(8500):
            seen.add(one(client))
    assert all(s < 500 for s in seen)
    assert memory() <= 1.05 * before


def test_a_body_that_never_ends(server) -> None:
    url, _ = server
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        wire.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nx")
        begun = time.monotonic()
        answer = wire.recv(4096)
    assert b" 408 " in answer.splitlines()[0]
    assert 0.5 < time.monotonic() - begun < 5
