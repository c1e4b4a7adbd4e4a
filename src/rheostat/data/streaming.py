"""Images read during a run. The random transforms of an item depend only on its position in the run.

An indexed data set is read by worker processes, and each item has its own seed. A run that resumes at step n therefore
reads the same images as an uninterrupted one, whatever its workers did before. An iterable sets its own order; a
resumed run reads it from the start of the epoch and skips the items already used.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import data as torch_data

from rheostat.data.base import DataError
from rheostat.data.conversion import Form, example_of
from rheostat.data.given import Flow, Indexed
from rheostat.runtime.seeding import seed_of, seeded, stream

Draw = tuple[int, int]
"""(the position of this read in the run, the item's index)."""


class _Seeded(torch_data.Dataset[tuple[Tensor, int]]):
    """Items of a data set, each read with the seed of its draw."""

    def __init__(self, given: Indexed, form: Form, seed: int) -> None:
        self.given, self.form, self.seed = given, form, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        number, index = draw
        with seeded(seed_of(self.seed, "item", number)):
            item = self.given.items[index]
        return example_of(item, self.form, f"{self.given.name}, item {index}")


def _leave_signals(worker: int) -> None:
    """In a worker, ignore Ctrl-C, because the main process ends its workers; let SIGTERM end the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_indexed(
    given: Indexed, draws: Iterable[list[Draw]], form: Form, *, seed: int, workers: int, pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images (B, C, H, W), labels (B,)) of each list of draws, read by `workers` processes (0: this one)."""
    loader = torch_data.DataLoader(
        _Seeded(given, form, seed),
        batch_sampler=_Listed(draws),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),
        worker_init_fn=_leave_signals if workers else None,
    )
    try:
        yield from loader
    except DataError as problem:  # from a worker it includes the traceback; the last line is the original message
        last = str(problem).strip().splitlines()[-1]
        raise DataError(last.removeprefix(f"{DataError.__module__}.DataError: ")) from None


class _Listed(torch_data.Sampler[list[Draw]]):
    """A batch sampler that yields given lists of draws."""

    def __init__(self, draws: Iterable[list[Draw]]) -> None:
        self.draws = draws

    def __iter__(self) -> Iterator[Any]:
        return iter(self.draws)


def read_flow(given: Flow, form: Form, *, seed: int, epoch: int, workers: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the examples of one epoch of an iterable; its `set_epoch(epoch)` is called if it has one."""
    if hasattr(given.items, "set_epoch"):
        given.items.set_epoch(epoch)
    if workers:
        if not isinstance(given.items, torch_data.IterableDataset):
            raise DataError(f"{given.name}: workers need a torch IterableDataset, which divides items between them")
        source: Iterable[Any] = torch_data.DataLoader(
            given.items,
            batch_size=None,
            num_workers=workers,
            generator=stream(seed, "workers", epoch),
            worker_init_fn=_leave_signals,
        )
        return given.examples(source, form)
    return given.examples(_item_by_item(given.items, seed, epoch), form)


def _item_by_item(items: Iterable[Any], seed: int, epoch: int) -> Iterator[Any]:
    """Yield the items, each drawn with its own seed, so that they do not share the generators of the run."""
    with seeded(seed_of(seed, "flow", epoch, -1)):
        source = iter(items)
    end = object()
    number = 0
    while True:
        with seeded(seed_of(seed, "flow", epoch, number)):
            item = next(source, end)
        if item is end:
            return
        yield item
        number += 1
