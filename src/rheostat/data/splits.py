"""Deterministic stratified splits. Calibration is held out of train; test is never chosen on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rheostat.data.base import Dataset

SPLITS = ("train", "calibrate-fit", "calibrate-choose", "test")


def stratified(labels: Tensor, sizes: tuple[int, ...], *, seed: int) -> list[Tensor]:
    """Disjoint row indexes of the given sizes, class shares kept to within one example.

    Raises ValueError when there are not enough rows. Rows come in ascending order.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"asked for {sum(sizes)} examples of {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    classes, counts = labels.unique(return_counts=True)
    # One order in which every stretch holds classes in proportion: each class's rows, shuffled, are
    # spread evenly over (0, 1); a small class-wise offset breaks ties at random.
    key = torch.empty(len(labels), dtype=torch.float64)
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        rows = (labels == label).nonzero()[:, 0]
        shuffled = rows[torch.randperm(count, generator=generator)]
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        key[shuffled] = (torch.arange(count, dtype=torch.float64) + offset) / count
    order = key.argsort(stable=True)
    parts, first = [], 0
    for size in sizes:
        parts.append(order[first : first + size].sort().values)
        first += size
    return parts


def subset(dataset: Dataset, count: int | None, *, seed: int = 0) -> Dataset:
    """A stratified, seeded part of a data set; all of it for None."""
    if count is None or count >= len(dataset):
        return dataset
    (rows,) = stratified(dataset.labels.cpu(), (count,), seed=seed)
    return dataset.only(rows.to(dataset.labels.device))


@dataclass(frozen=True)
class Splits:
    """The four splits of a data set, as EVALUATION.md uses them."""

    train: Dataset
    fit: Dataset
    choose: Dataset
    test: Dataset

    def named(self, name: str) -> Dataset:
        """A split by its name in rows: train, calibrate-fit, calibrate-choose, test."""
        found = dict(zip(SPLITS, (self.train, self.fit, self.choose, self.test), strict=True))
        if name not in found:
            raise ValueError(f"no split {name!r}; allowed: {', '.join(SPLITS)}")
        return found[name]


def make_splits(train: Dataset, test: Dataset, *, calibrate: int, limit: int | None = None, seed: int = 0) -> Splits:
    """Hold `calibrate` images out of train, in two halves; keep `limit` of the rest (all if None)."""
    if calibrate < 2 or calibrate % 2:
        raise ValueError(f"calibrate is an even number of images, at least 2, given {calibrate}")
    rest = len(train) - calibrate
    if limit is not None and not 0 < limit <= rest:
        raise ValueError(f"train_images must be from 1 to {rest}, given {limit}")
    half = calibrate // 2
    fit, choose, kept = stratified(train.labels, (half, half, limit or rest), seed=seed)
    parts = (train.only(kept), train.only(fit), train.only(choose), test)
    return Splits(*(replace(d, split=name) for d, name in zip(parts, SPLITS, strict=True)))
