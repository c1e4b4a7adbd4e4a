"""The losses of a recipe's first training steps: what shows later that a shipped model can be trained again."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rheostat.runtime.files import write_text
from rheostat.training import Callback, Recipe, train

FILE = Path(__file__).with_name("first_losses.json")
"""Of every model that `ship.py` shipped: precision, threads and the losses of its first steps."""
STEPS = 50
FIRST, LATER = {"fp32": 1e-5, "bf16": 1e-3}, 0.03
"""By which share the loss of the first step, and of each later one, may differ on another processor."""


class _Enough(Exception):
    """Ends a training that was wanted for its first steps alone."""


class _Losses(Callback):
    """Keeps the loss of every step, and ends the training after the last that is wanted."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.found: list[float] = []

    def on_step(self, run: Any, values: Mapping[str, float]) -> None:
        self.found.append(values["loss"])
        if len(self.found) == self.steps:
            raise _Enough


def first_losses(recipe: Recipe, *, steps: int = STEPS, data_dir: str | Path | None = None) -> list[float]:
    """The losses of a recipe's first steps, on the processor, with the threads of the caller; nothing is kept.

    The learning rate is that of the whole training, so the recipe's epochs stay as they are.
    """
    losses = _Losses(steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Enough):
        train(recipe.changed(device={"name": "cpu"}), out=folder, folder=data_dir, callbacks=[losses])
    return losses.found


def difference(now: Sequence[float], before: Sequence[float], *, precision: str = "fp32") -> str:
    """Where two runs of first steps differ by more than rounding explains, in words; empty where nowhere.

    `now` may be shorter. Sums in another order (two threads for one, another memory layout) move a loss by some 1e-8 of
    its value. The attack of training takes signs of gradients, so that a few pixels then go the other way, and weights
    and losses part further: measured over 50 steps at most 6e-3 (digits) and 3e-3 (Fashion-MNIST, ResNet-8). In bf16,
    with and without native instructions, the first loss of ResNet-20 on CIFAR-10 differed by 3e-4, a later one by 1e-2.
    """
    for step, (a, b) in enumerate(zip(now, before, strict=False), 1):
        allowed = FIRST[precision] if step == 1 else LATER
        if not abs(a - b) <= allowed * abs(b):
            return f"step {step}: loss {a:.6f}, before {b:.6f}; allowed is {allowed:g} of it"
    return ""


def keep(name: str, losses: Sequence[float], *, precision: str, threads: int, file: Path = FILE) -> None:
    """Write the losses of a model beside those of the others."""
    every = read(file) | {name: {"precision": precision, "threads": threads, "losses": list(losses)}}
    write_text(file, json.dumps(dict(sorted(every.items())), indent=1) + "\n")


def read(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """What is kept, by the names of the models."""
    return dict(json.loads(file.read_text())) if file.is_file() else {}
