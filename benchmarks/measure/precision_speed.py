"""Seconds of a training step in bf16 over those in fp32, in turns → results/precision-speed.jsonl.

`python benchmarks/measure/precision_speed.py` on an idle machine: what `device.precision = "auto"` gains on this chip.
A ratio below 1 means that bf16 is faster. Both steps are of `dual` with N-FGSM, as in the recipes of models that ship.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from ratios import row, show
from timed_steps import interleaved, stepper

from rheostat import nets
from rheostat.attacks import Attack
from rheostat.results.timings import write_timings
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.precision import native_bf16

RESULTS = Path(__file__).parents[1] / "results" / "precision-speed.jsonl"
BATCH = 128
NETS: dict[str, Callable[[], nets.Net]] = {
    "narrow ResNet-8": lambda: nets.resnet(depth=8, image=(1, 28, 28)),
    "ResNet-20": lambda: nets.resnet(depth=20),
    "ResNet-18, width 32": lambda: nets.resnet(depth=18, base_width=32),
    "ResNet-18": lambda: nets.resnet(depth=18),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="interleaved repetitions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    native, rows = native_bf16(torch.device("cpu")), []
    for name, build in NETS.items():
        attack = Attack("n-fgsm", 8 / 255, 1, drop=False)
        runs = {p: stepper(build(), "dual", BATCH, attack, low=p == "bf16") for p in ("bf16", "fp32")}
        times = {p: [seconds for seconds, _ in found] for p, found in interleaved(runs, options.times).items()}
        values = [a / b for a, b in zip(times["bf16"], times["fp32"], strict=True)]
        speeds = {p: BATCH / statistics.median(t) for p, t in times.items()}
        rows.append(row(f"{name}: training step, bf16 ÷ fp32", "bf16", "fp32", values, images_per_second=speeds))
        rows[-1] |= {"batch": BATCH, "threads": options.threads, "native": native}
        show(rows[-1])
    write_timings(options.out, rows)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
