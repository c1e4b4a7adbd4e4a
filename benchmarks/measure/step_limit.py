"""Training steps against their passes at the speed of the plain network → results/step-limit.jsonl.

`python benchmarks/measure/step_limit.py` on an idle machine. The plain network has the same layers in plain PyTorch
(`plain_nets`), in the same layout, precision and number of threads. Two of its passes are timed: one of training
(forward, and backward to the weights) and one of an attack (in eval, forward, and backward to the images alone). A
step's passes are those of the method's plan with one step of N-FGSM. A ratio of 1 means that conditioning, norms of
both kinds and bookkeeping cost nothing.

At widths below 1, passes count by their share of multiplications; a second ratio counts them at the measured time of
plain networks of those widths. The attack of a network with exits is not a sum of such passes: `rdi` is compared with
the time in which the plain network trains with as many FLOPs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from flop_counts import flops
from plain_nets import plain_resnet
from ratios import row, show, spread
from speed import rows_at, rows_of
from timed_steps import interleaved, scope, stepper
from torch import nn

from rheostat import nets
from rheostat.attacks import Attack
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.results.timings import merge_timings
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.precision import native_bf16

RESULTS = Path(__file__).parents[1] / "results" / "step-limit.jsonl"
Pass = Callable[[nn.Module, torch.Tensor, torch.Tensor, bool], float]
ATTACK = Attack("n-fgsm", 8 / 255, 1, drop=False)


@dataclass(frozen=True)
class Case:
    """A network, the size of its batch, and the goal of each method."""

    depth: int
    width: int
    image: tuple[int, int, int]
    batch: int
    bars: dict[str, float]


WIDE = {"dual": 0.85, "float": 1.0, "oat": 1.0, "smart": 1.0, "oats": 1.25, "rdi": 1.25}
NARROW = {"dual": 1.10, "float": 1.10, "oat": 1.10, "smart": 1.10, "oats": 1.25, "rdi": 1.25}
CASES = {
    "narrow ResNet-8": Case(8, 16, (1, 28, 28), 128, NARROW),
    "ResNet-20": Case(20, 16, (3, 32, 32), 128, NARROW),
    "ResNet-18, width 32": Case(18, 32, (3, 32, 32), 128, WIDE),
    "ResNet-18": Case(18, 64, (3, 32, 32), 64, WIDE),
}


def training_pass(net: nn.Module, x: torch.Tensor, y: torch.Tensor, low: bool) -> float:
    """Seconds of one forward and backward in training."""
    net.train().requires_grad_()
    started = time.perf_counter()
    with scope(low):
        loss = F.cross_entropy(net(x).float(), y)
    loss.backward()
    return time.perf_counter() - started


def attack_pass(net: nn.Module, x: torch.Tensor, y: torch.Tensor, low: bool) -> float:
    """Seconds of one forward and backward to the images in eval."""
    net.eval().requires_grad_(False)
    given = x.detach().clone(memory_format=torch.channels_last).requires_grad_()
    started = time.perf_counter()
    with scope(low):
        loss = F.cross_entropy(net(given).float(), y)
    torch.autograd.grad(loss, given)
    return time.perf_counter() - started


def measured(name: str, times: int, threads: int, low: bool) -> list[dict[str, object]]:
    """One row for each method on one network in one precision."""
    case = CASES[name]

    def build() -> nets.Net:
        return nets.resnet(depth=case.depth, base_width=case.width, image=case.image)

    models = {paper: Tunable(build(), compose(paper)) for paper in case.bars}
    widths = {1.0}.union(*(m.dials["width"].values for m in models.values() if "width" in m.dials))
    x = torch.rand(case.batch, *case.image).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (case.batch,))
    plain = {
        width: plain_resnet(case.depth, round(case.width * width), case.image[0]).to(memory_format=torch.channels_last)
        for width in sorted(widths)
    }
    seconds: dict[tuple[str, float], list[float]] = {}

    def timed(what: str, width: float, run: Pass) -> Callable[[int], float]:
        def once(number: int) -> float:
            seconds.setdefault((what, width), []).append(run(plain[width], x, y, low))
            return 0.0

        return once

    # The plain networks take their turns among the methods, so that all see the same machine.
    both: dict[str, Pass] = {"train": training_pass, "attack": attack_pass}
    turns = {f"plain {what}, width {w:g}": timed(what, w, run) for what, run in both.items() for w in plain}
    steps = {p: stepper(build(), p, case.batch, ATTACK, low=low) for p in case.bars}
    found = interleaved({**turns, **steps}, times)
    whole = flops(lambda: training_pass(plain[1.0], x, y, low))
    rows = []
    for paper, bar in case.bars.items():
        model, took = models[paper], [t for t, _ in found[paper]]
        more: dict[str, object] = {"batch": case.batch, "threads": threads, "native": native_bf16(torch.device("cpu"))}
        if "exit" in model.dials:
            share = flops(functools.partial(steps[paper], 1)) / whole
            values = [t / (share * seconds["train", 1.0][n]) for n, t in enumerate(took, start=1)]
        else:
            values = [
                t / _limit({1.0: rows_of(model, case.batch, ATTACK.steps, n)}, seconds, n, case.batch)
                for n, t in enumerate(took, start=1)
            ]
        if "width" in model.dials:
            at_widths = [
                t / _limit(rows_at(model, case.batch, ATTACK.steps, n), seconds, n, case.batch)
                for n, t in enumerate(took, start=1)
            ]
            more["ratio_at_widths"] = spread(at_widths)
        precision = "bf16" if low else "fp32"
        speed = case.batch / statistics.median(took)
        rows.append(
            row(f"{name}, {precision}: step ÷ its passes", paper, "plain", values, bar=bar, images_per_second=speed)
        )
        rows[-1] |= more
        show(rows[-1])
    return rows


def _limit(
    rows: Mapping[float, tuple[float, float]],
    seconds: Mapping[tuple[str, float], Sequence[float]],
    turn: int,
    batch: int,
) -> float:
    """Seconds of a step's passes at the plain networks' times of a turn. `rows`: width → (in training, in attacks)."""
    return sum(
        (trained * seconds["train", width][turn] + attacked * seconds["attack", width][turn]) / batch
        for width, (trained, attacked) in rows.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="interleaved repetitions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--net", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    for name in options.net or CASES:
        for low in (True, False):
            merge_timings(options.out, measured(name, options.times, options.threads, low), key=("name", "a"))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
