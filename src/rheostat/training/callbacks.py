"""Callbacks of a run, called after a step, an epoch or an evaluation; among them EarlyStop and TensorBoard.

A callback is any object with at least one of the methods of `Callback`. Under torchrun only the first rank calls them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.runtime.choices import nearest

if TYPE_CHECKING:
    from rheostat.results.row import Row
    from rheostat.training.result import Fitted
    from rheostat.training.run import TrainingRun

HOOKS = ("on_step", "on_epoch", "on_evaluate")


class Callback:
    """Base class whose methods do nothing; override those that you need.

    A step's values are step, total, seconds, loss (of this step) and lr. An epoch's values are its line of
    `metrics.jsonl`, with `score`, and with the accuracies on the validation images under `calibrate`. `run` has
    `model`, `folder` and `history`; `run.stop("why")` ends the training after this step, and the best scored weights so
    far are kept.
    """

    def on_step(self, run: TrainingRun, values: Mapping[str, float]) -> None:
        """After an update of the weights."""

    def on_epoch(self, run: TrainingRun, line: Mapping[str, Any]) -> None:
        """After an epoch was scored."""

    def on_evaluate(self, run: Fitted, rows: Sequence[Row]) -> None:
        """After `run.evaluate(...)`."""


def check_callbacks(given: Sequence[object]) -> None:
    """ValueError for an object that has no method of a callback."""
    for one in given:
        if isinstance(one, type):
            raise ValueError(f"callbacks holds the class {one.__name__}; give an object: {one.__name__}()")
        if not any(callable(getattr(one, hook, None)) for hook in HOOKS):
            own = next((n for n in dir(one) if n.startswith("on_")), type(one).__name__)
            raise ValueError(f"a {type(one).__name__} is not a callback: it has no method {nearest(own, HOOKS)}")


def call(callbacks: Sequence[object], hook: str, run: object, values: object) -> None:
    """Call one method of every callback that has it, in order."""
    for one in callbacks:
        method = getattr(one, hook, None)
        if method is not None:
            method(run, values)


@dataclass(frozen=True)
class EarlyStop(Callback):
    """Stop when the validation score has not risen by `least` over `patience` scored epochs.

    The decision depends only on the history, so a resumed run stops at the same epoch as an uninterrupted one. The
    kept weights are those of the best epoch in the last `select.tail` of training; if the run stops before that, those
    of the best scored epoch. `select={"tail": 1}` considers all epochs in either case.
    """

    patience: int = 3
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, given {self.patience}")

    def on_epoch(self, run: TrainingRun, line: Mapping[str, Any]) -> None:
        scores = [e["score"] for e in run.history if e["score"] >= 0]
        best, since = float("-inf"), 0
        for score in scores:
            best, since = (score, 0) if score > best + self.least else (best, since + 1)
        if since >= self.patience:
            run.stop(f"the score has not risen for {since} scored epochs")


class TensorBoard(Callback):
    """Training curves as an event file in the run's folder. Needs the extra `tensorboard`."""

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError("TensorBoard is not installed: pip install 'rheostat[tensorboard]'")

    def on_epoch(self, run: TrainingRun, line: Mapping[str, Any]) -> None:
        write_events(run.folder, line)


def write_events(folder: Path, line: Mapping[str, Any]) -> None:
    """Add an epoch's numbers to an event file in the run's folder."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard"), purge_step=line["step"]) as writer:
        for key, value in line.items():
            if isinstance(value, float):
                writer.add_scalar(key, value, line["step"])
        for scored in line.get("calibrate", []):
            at = "_".join(f"{k}-{v:g}" for k, v in scored["at"].items()) or "rest"
            for key in ("clean_accuracy", "robust_accuracy"):
                writer.add_scalar(f"calibrate/{at}/{key}", scored[key], line["step"])
