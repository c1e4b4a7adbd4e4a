"""One training step as a function that can be timed, and the timing of several in turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch

from rheostat import data, nets
from rheostat.attacks import Attack, training_step_size
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.precision import low_precision
from rheostat.runtime.seeding import stream
from rheostat.training.step import Step


def pgd(steps: int, eps: float = 0.1) -> Attack:
    """The training attack of the steps that are timed."""
    return Attack("pgd", eps, steps, training_step_size(eps, steps), drop=False)


def scope(low: bool) -> contextlib.AbstractContextManager[object]:
    """Products on the CPU in bf16 if `low`, else as they are."""
    return low_precision(torch.device("cpu")) if low else contextlib.nullcontext()


def stepper(net: nets.Net, paper: str, batch: int, attack: Attack, *, low: bool = False) -> Callable[[int], float]:
    """A function that makes one training step, `low` in bf16, and returns its seconds outside forward and backward."""
    model = Tunable(net, compose(paper)).to_layout(torch.channels_last)
    step = Step(model, attack, Ranks())
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pool = torch.randint(0, 256, (1024, *net.image), dtype=torch.uint8)
    labels = torch.randint(0, net.classes, (1024,))

    def run(number: int) -> float:
        outside = 0.0
        start = time.perf_counter()
        rows = torch.randperm(1024, generator=stream("rows", number))[:batch]
        x, y = data.to_pixels(pool[rows]), labels[rows]
        terms = model.method.plan(batch, stream("plan", number))
        optimiser.zero_grad(set_to_none=False)
        outside += time.perf_counter() - start
        with scope(low):
            step.backward(terms, x, y, batch=batch, seed=("bench", number))
        start = time.perf_counter()
        optimiser.step()
        return outside + time.perf_counter() - start

    return run


def interleaved(
    runs: dict[str, Callable[[int], float]], times: int, *, warm_up: int = 1
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, what it returned) of each run, taken in turns after `warm_up` turns; it is given the turn, from 1."""
    out: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(1 - warm_up, times + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            returned = run(number)
            if number > 0:
                out[name].append((time.perf_counter() - start, returned))
    return out
