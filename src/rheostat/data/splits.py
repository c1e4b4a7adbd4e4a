"""Deterministic stratified splits. The calibration splits are held out of train; nothing is chosen on test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rheostat.data.base import Dataset

SPLITS = ("train", "calibrate-fit", "calibrate-choose", "test")


def stratified(labels: Tensor, sizes: tuple[int, ...], *, seed: int) -> list[Tensor]:
    """Disjoint row indices of the given sizes; class proportions are kept to within one example.

    Each part is in ascending order. Raises ValueError if there are not enough rows.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"cannot draw {sum(sizes)} examples from {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    classes, counts = labels.unique(return_counts=True)
    # An order in which every contiguous part has the class proportions of the whole: the shuffled rows of
    # each class are spaced evenly over (0, 1), and a small offset per class breaks ties at random.
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
    """A stratified, seeded subset of `count` images; the whole data set if `count` is None or not smaller."""
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
        """A split by its name in rows; raises ValueError that lists the allowed names."""
        found = dict(zip(SPLITS, (self.train, self.fit, self.choose, self.test), strict=True))
        if name not in found:
            raise ValueError(f"no split {name!r}; allowed: {', '.join(SPLITS)}")
        return found[name]


def make_splits(train: Dataset, test: Dataset, *, calibrate: int, limit: int | None = None, seed: int = 0) -> Splits:
    """Hold `calibrate` images out of train, in two equal halves; keep `limit` of the rest (all if None)."""
    if calibrate < 2 or calibrate % 2:
        raise ValueError(f"calibrate must be an even number of images, at least 2, given {calibrate}")
    rest = len(train) - calibrate
    if rest < 1:
        raise ValueError(f"calibrate is {calibrate}, but {train.name} has only {len(train)} training images")
    if limit is not None and not 0 < limit <= rest:
        raise ValueError(f"train_images must be from 1 to {rest}, given {limit}")
    half = calibrate // 2
    fit, choose, kept = stratified(train.labels, (half, half, limit or rest), seed=seed)
    parts = (train.only(kept), train.only(fit), train.only(choose), test)
    return Splits(*(replace(d, split=name) for d, name in zip(parts, SPLITS, strict=True)))
