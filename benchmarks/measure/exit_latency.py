"""Latency of real early exit against the static net, on test images, batch 1, 32 and 256.

`python benchmarks/measure/exit_latency.py NAME RUN STATIC`: the two models in turn on the same batches, eager, in one
process; the ratio of their times with quartiles over batches. Rows go to results/exit-latency.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from rheostat import data
from rheostat.models.artifact import digest, load_with, versions
from rheostat.results.machine import hardware
from rheostat.results.timings import read_timings, write_timings
from rheostat.runtime.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "exit-latency.jsonl"


def timed(model: nn.Module, x: Tensor) -> float:
    """Seconds of one pass."""
    started = time.perf_counter()
    model(x)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("run")
    parser.add_argument("static")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--images", type=int, default=8192)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model, about = load_with(options.run)
    static, _ = load_with(options.static)
    for found in (model, static):
        found.to_layout(torch.channels_last)
    _, test = data.load(about.provenance["dataset"], folder=options.data_dir)
    images = data.to_pixels(test.images[: options.images])
    others = data.to_pixels(test.images[options.images : options.images + 5 * 256])
    early, whole = model.at(exit=1.0), static.at()
    rows = [r for r in read_timings(RESULTS) if r["name"] != options.name]
    for batch in (1, 32, 256):
        count = min(300, len(images) // batch)
        times: list[tuple[float, float]] = []
        with torch.no_grad():
            for model_ in (early, whole):
                # Images that are not timed, several batches of them: a server is warm.
                for part in others.split(batch)[:40]:
                    model_(part)
            for i in range(max(count, 100)):
                first = i % count * batch
                x = images[first : first + batch]
                # In turn, and the first of the two changes, so that neither always finds a warm cache.
                if i % 2:
                    second = timed(whole, x)
                    times.append((timed(early, x), second))
                else:
                    times.append((timed(early, x), timed(whole, x)))
        ratios = sorted(a / b for a, b in times)
        quartiles = statistics.quantiles(ratios, n=4)
        total = sum(a for a, _ in times) / sum(b for _, b in times)
        rows.append(
            {
                "name": options.name,
                "a": "early exit",
                "b": "static",
                "batch": batch,
                "n": len(times),
                "ratio": {"median": quartiles[1], "low": quartiles[0], "high": quartiles[2], "of_sums": total},
                "milliseconds": [1e3 * statistics.median(t[i] for t in times) for i in (0, 1)],
                "artifacts": [digest(options.run), digest(options.static)],
                "hardware": hardware(torch.device("cpu")),
                "versions": versions(),
                "seed": 0,
            }
        )
        low, middle, high = quartiles
        print(f"{options.name}, batch {batch}: {middle:.3f} [{low:.3f}, {high:.3f}], sums {total:.3f}")
    write_timings(RESULTS, rows)


if __name__ == "__main__":
    main()
