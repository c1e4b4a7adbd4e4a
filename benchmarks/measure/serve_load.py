"""Load on a real server over loopback, against the runtime alone in the same run → results/serve.jsonl.

A point is served in fp32 by ONNX Runtime, and in bf16 and int8 by OpenVINO where the machine has it (extra openvino).

Throughput: enough clients that the queue never empties. Then open-loop arrivals at 80 % of it (p99 against
deadline + 2 batch times), and at 200 % (503s, no time-outs). The client shares the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import torch

from rheostat import nets
from rheostat.deploy.precisions import FULL, SERVED, beside, lacking, open_in, write_in
from rheostat.methods.composition import compose
from rheostat.models import artifact
from rheostat.models.artifact import About, versions
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import write_timings

RESULTS = Path(__file__).parents[1] / "results" / "serve.jsonl"
THREADS = os.cpu_count() or 1
DEADLINE = 0.005
CASES = {
    # name: network, images of a request, bar on the share of the runtime's throughput
    "ResNet-18, 32×32": ({"name": "resnet", "depth": 18, "image": [3, 32, 32]}, 16, 0.8),
    "narrow ResNet-8, 28×28": ({"name": "resnet", "depth": 8, "base_width": 16, "image": [1, 28, 28]}, 64, 0.6),
}


def model_of(spec: dict[str, object], folder: Path, precision: str) -> Path:
    torch.manual_seed(0)
    model = Tunable(nets.build({**spec, "classes": 10}), compose("dual"))
    file = artifact.save(folder / "model.safetensors", model, About(tuple("0123456789"), {"eps": 0.1, "norm": "linf"}))
    measured = {"robust_bound": 0.5, **({} if precision == FULL else {"precision": precision})}
    artifact.name_point(file, "safe", Point(robustness=1.0), measured)
    artifact.name_point(file, "fast", Point(robustness=0.0), {"robust_bound": 0.0})
    if SERVED[precision].quantised:
        images, about, own = torch.rand(64, *model.net.image), artifact.load_with(file)[1], artifact.digest(file)
        write_in(precision, model, about, beside(file, "safe"), at=Point(robustness=1.0), images=images, artifact=own)
    return file


def alone(file: Path, batch: int, image: tuple[int, ...], precision: str) -> float:
    """Seconds of a batch of the point's runtime by itself, the median of 2 seconds of passes."""
    model, about = artifact.load_with(file)
    onnx = write_in(precision, model, about, file.with_suffix(".onnx"), at="safe", images=torch.rand(2, *image))
    session = open_in(precision, onnx, threads=THREADS)
    x = np.random.default_rng(0).random((batch, *image)).astype(np.float32)
    times, started = [], time.perf_counter()
    while time.perf_counter() - started < 2.0 or len(times) < 10:
        begun = time.perf_counter()
        session(x)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


@contextlib.contextmanager
def server(file: Path, most: int, target: float):
    """A server of batches of up to `most` images; it refuses requests that would take longer than `target` seconds."""
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
        str(THREADS),
        "--max-batch",
        str(most),
        "--queue",
        str(4 * most),
        "--deadline-ms",
        str(1e3 * DEADLINE),
        "--target-ms",
        str(1e3 * target),
        "--ladder",
        "safe",
        "--max-mb",
        "32",
        # Of points in fp32, the runtime that `alone` times; those of a lower precision have their own.
        "--backend",
        "onnx",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


async def one(client: httpx.AsyncClient, url: str, body: bytes, out: list[tuple[int, float]]) -> None:
    begun = time.perf_counter()
    try:
        answer = await client.post(f"{url}/v1/predict", content=body, headers={"Content-Type": "application/x-npy"})
        status = answer.status_code
    except httpx.TimeoutException:
        status = 0
    out.append((status, time.perf_counter() - begun))


async def closed(url: str, body: bytes, clients: int, seconds: float) -> list[tuple[int, float]]:
    """So many clients, each asking again as soon as it is answered."""
    out: list[tuple[int, float]] = []
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        end = time.perf_counter() + seconds

        async def ask() -> None:
            while time.perf_counter() < end:
                await one(client, url, body, out)

        await asyncio.gather(*(ask() for _ in range(clients)))
    return out


async def opened(url: str, body: bytes, rate: float, seconds: float) -> list[tuple[int, float]]:
    """Requests at a steady rate, whatever the answers."""
    out: list[tuple[int, float]] = []
    tasks = []
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=500)) as client:
        begun = time.perf_counter()
        for i in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + i / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(client, url, body, out)))
        await asyncio.gather(*tasks)
    return out


def measured(name: str, precision: str) -> dict[str, object]:
    """The row of one network in one precision."""
    spec, count, bar = CASES[name]
    image = tuple(spec["image"])  # type: ignore[arg-type]
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(1).integers(0, 255, (count, *image), dtype=np.uint8))
    body, most = buffer.getvalue(), 64
    with tempfile.TemporaryDirectory() as folder:
        file = model_of(spec, Path(folder), precision)
        before = alone(file, most, image, precision)
        # The queue holds four batches: a target that they fit in, so that the queue alone limits the load.
        with server(file, most, DEADLINE + 6 * before) as url:
            asyncio.run(closed(url, body, 2, 1.0))
            begun = time.perf_counter()
            found = asyncio.run(closed(url, body, 3 * most // count + 1, 8.0))
            rate = sum(s == 200 for s, _ in found) / (time.perf_counter() - begun)
            busy = asyncio.run(opened(url, body, 0.8 * rate, 8.0))
            over = asyncio.run(opened(url, body, 2 * rate, 6.0))
        after = alone(file, most, image, precision)
    batch = statistics.mean((before, after))
    p99 = float(np.quantile([t for s, t in busy if s == 200], 0.99))
    return {
        "name": name,
        "precision": precision,
        "images_per_request": count,
        "batch": most,
        "throughput": rate * count,
        "alone": most / batch,
        "ratio": rate * count * batch / most,
        "bar_at_least": bar,
        "p99_ms": 1e3 * p99,
        "p99_bar_ms": 1e3 * (DEADLINE + 2 * batch),
        "busy": {str(s): sum(x == s for x, _ in busy) for s in {x for x, _ in busy}},
        "overload": {str(s): sum(x == s for x, _ in over) for s in {x for x, _ in over}},
        "overload_longest_s": max(t for _, t in over),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "seed": 0,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    for name in CASES:
        for precision in ("fp32", "bf16", "int8-openvino"):
            if problem := lacking(precision):
                print(f"{name}, {precision}: not measured, {problem}")
                continue
            row = measured(name, precision)
            rows.append(row)
            print(
                f"{name}, {precision}: {row['throughput']:.0f} images/s, the runtime alone {row['alone']:.0f}: "
                f"{row['ratio']:.2f} (bar {row['bar_at_least']}); at 80 % p99 {row['p99_ms']:.0f} ms "
                f"(bar {row['p99_bar_ms']:.0f}); at 200 % {row['overload']}, "
                f"longest {row['overload_longest_s']:.1f} s",
                flush=True,
            )
    write_timings(RESULTS, rows)


if __name__ == "__main__":
    main()
