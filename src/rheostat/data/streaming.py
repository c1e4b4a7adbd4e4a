"""Images that are read as a run goes: what an item draws at random depends on its place in the run alone.

A data set with numbers is read by worker processes, each item under a seed of its own, so that a run continued at
step n reads what an undisturbed one reads there, whatever its workers did before. An iterable has an order of its own:
a continued run reads from the start of the epoch and drops what was used.
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
"""(the number of this reading in the run, the item's index)."""


class _Seeded(torch_data.Dataset[tuple[Tensor, int]]):
    """Items of a data set, each read under the seed of its draw."""

    def __init__(self, given: Indexed, form: Form, seed: int) -> None:
        self.given, self.form, self.seed = given, form, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        number, index = draw
        with seeded(seed_of(self.seed, "item", number)):
            item = self.given.items[index]
        return example_of(item, self.form, f"{self.given.name}, item {index}")


def _leave_signals(worker: int) -> None:
    """In a worker: Ctrl-C is the main process's business, which ends its workers itself; SIGTERM ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_indexed(
    given: Indexed, draws: Iterable[list[Draw]], form: Form, *, seed: int, workers: int, pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of each list of draws, read by `workers` processes (0: by this one)."""
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
    except DataError as problem:  # from a worker it comes with its traceback; the last line is what was raised
        last = str(problem).strip().splitlines()[-1]
        raise DataError(last.removeprefix(f"{DataError.__module__}.DataError: ")) from None


class _Listed(torch_data.Sampler[list[Draw]]):
    """Lists of draws, as a batch sampler."""

    def __init__(self, draws: Iterable[list[Draw]]) -> None:
        self.draws = draws

    def __iter__(self) -> Iterator[Any]:
        return iter(self.draws)


def read_flow(given: Flow, form: Form, *, seed: int, epoch: int, workers: int) -> Iterator[tuple[Tensor, int]]:
    """The examples of one epoch of an iterable, one by one; `set_epoch(epoch)` is called where there is one."""
    if hasattr(given.items, "set_epoch"):
        given.items.set_epoch(epoch)
    if workers:
        if not isinstance(given.items, torch_data.IterableDataset):
            raise DataError(f"{given.name}: workers need a torch IterableDataset, which says what each of them reads")
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
    """The items, each drawn under a seed of its own, so that the run's generators and these do not mix."""
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
