"""Seconds of a training step in bf16 over those in fp32, in turns → results/precision-speed.jsonl.

`python benchmarks/measure/precision_speed.py` on an idle machine: what `device.precision = "auto"` gains on this chip.
A ratio below 1 means that bf16 is faster. Both steps are of `dual` with N-FGSM, as in the recipes of models that ship.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from speed import row, show

from rheostat import data, nets
from rheostat.attacks import Attack
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.results.timings import write_timings
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.precision import low_precision, native_bf16
from rheostat.runtime.seeding import stream
from rheostat.training.step import Step

RESULTS = Path(__file__).parents[1] / "results" / "precision-speed.jsonl"
BATCH = 128
NETS: dict[str, Callable[[], nets.Net]] = {
    "narrow ResNet-8": lambda: nets.resnet(depth=8, image=(1, 28, 28)),
    "ResNet-20": lambda: nets.resnet(depth=20),
    "ResNet-18, width 32": lambda: nets.resnet(depth=18, base_width=32),
    "ResNet-18": lambda: nets.resnet(depth=18),
}


def stepper(net: nets.Net, precision: str) -> Callable[[int], float]:
    """A function that makes one training step in a precision and returns its seconds."""
    model = Tunable(net, compose("dual")).to_layout(torch.channels_last)
    step = Step(model, Attack("n-fgsm", 8 / 255, 1, drop=False), Ranks())
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    pixels = torch.randint(0, 256, (BATCH, *net.image), dtype=torch.uint8, generator=stream("pixels"))
    labels = torch.randint(0, net.classes, (BATCH,), generator=stream("labels"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def run(number: int) -> float:
        start = time.perf_counter()
        terms = model.method.plan(BATCH, stream("plan", number))
        optimiser.zero_grad(set_to_none=False)
        with low_precision(torch.device("cpu")) if precision == "bf16" else contextlib.nullcontext():
            step.backward(terms, data.to_pixels(pixels), labels, batch=BATCH, seed=("bench", number))
        optimiser.step()
        return time.perf_counter() - start

    return run


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
        runs = {precision: stepper(build(), precision) for precision in ("bf16", "fp32")}
        times: dict[str, list[float]] = {precision: [] for precision in runs}
        for number in range(options.times + 1):
            for precision, run in runs.items():
                seconds = run(number)
                if number:  # the first of each warms up
                    times[precision].append(seconds)
        values = [a / b for a, b in zip(times["bf16"], times["fp32"], strict=True)]
        speeds = {p: BATCH / statistics.median(t) for p, t in times.items()}
        rows.append(row(f"{name}: training step, bf16 ÷ fp32", "bf16", "fp32", values, images_per_second=speeds))
        rows[-1] |= {"batch": BATCH, "threads": options.threads, "native": native}
        show(rows[-1])
    write_timings(options.out, rows)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
