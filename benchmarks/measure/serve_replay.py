"""One replay over HTTP: requests leave at the times of a trace, whatever the answers, against a running server."""

from __future__ import annotations

import asyncio
import contextlib
import io
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


@contextlib.contextmanager
def server(file: Path, ladder: Sequence[str], *options: str, threads: int = 1) -> Iterator[str]:
    """A server of these points in a process of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rheostat", "serve", str(file), "--port", str(port), "--ladder", ",".join(ladder)]
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


def npy(images: Pixels) -> bytes:
    """A body of application/x-npy."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


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
    """Send every request at its time. The attacker attacks the point that the last answer named, `first` at first."""
    outcomes: list[Outcome | None] = [None] * len(arrivals)
    right, statuses, aims = np.zeros(len(arrivals)), [0] * len(arrivals), []
    last = first
    headers = {"Content-Type": "application/x-npy"}
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=400)) as client:
        begun = time.perf_counter() + 0.1

        async def one(i: int, target: str, body: bytes) -> None:
            nonlocal last
            answer = await client.post(f"{url}/v1/predict", content=body, headers=headers)
            ended, statuses[i] = time.perf_counter() - begun, answer.status_code
            outcomes[i] = Outcome(arrivals[i], ended, None)
            if answer.status_code == 200:
                found = answer.json()
                last = found["point"]
                outcomes[i] = Outcome(arrivals[i], ended, last)
                truth = [labels[k] for k in requests.images[i]]
                right[i] = np.mean([a == b for a, b in zip(found["labels"], truth, strict=True)])
                if requests.attacked[i]:
                    aims.append(last == target)

        tasks = []
        for i, at in enumerate(arrivals):
            target = last
            images = (attacked[target] if requests.attacked[i] else clean)[requests.images[i]]
            body = npy(images)
            await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
            tasks.append(asyncio.create_task(one(i, target, body)))
        await asyncio.gather(*tasks)
    assert all(o is not None for o in outcomes)
    counted = {s: statuses.count(s) for s in sorted(set(statuses))}
    return Replay(
        [o for o in outcomes if o is not None], right, counted, float(np.mean(aims)) if aims else float("nan")
    )
