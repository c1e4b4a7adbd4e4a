"""Readers of the standard formats, splits, and augmentation on the device."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from rheostat.data import cifar, digits, idx, others
from rheostat.data.augmentation import augment, to_pixels
from rheostat.data.base import DataError, Dataset, Reader
from rheostat.data.downloads import REMOTES, download, present, verify_files
from rheostat.data.splits import SPLITS, Splits, make_splits, stratified, subset
from rheostat.runtime.choices import nearest

READERS: dict[str, Reader] = {
    "digits": digits.read,
    "mnist": idx.reader("mnist", idx.DIGITS),
    "fashion-mnist": idx.reader("fashion-mnist", idx.FASHION),
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "svhn": others.svhn,
    "stl10": others.stl10,
    "tiny-imagenet": others.tiny_imagenet,
}


def data_dir(given: str | Path | None = None) -> Path:
    """The folder that holds data sets: as given, else RHEOSTAT_DATA, else the user's cache."""
    if given is not None:
        return Path(given)
    if os.environ.get("RHEOSTAT_DATA"):
        return Path(os.environ["RHEOSTAT_DATA"])
    return Path.home() / ".cache" / "rheostat"


def load(
    name: str, *, folder: str | Path | None = None, verify: bool = True, fetch: bool = True
) -> tuple[Dataset, Dataset]:
    """(train, test) of a data set by its name, or of `folder:PATH`, a tree train/CLASS, test/CLASS.

    Looked for in `folder`/name, and downloaded there if absent and `fetch`. DataError names the file
    that is missing or not what was expected.
    """
    if name.startswith("folder:"):
        return _marked(others.folders(Path(name.removeprefix("folder:")), verify))
    if name not in READERS:
        raise ValueError(f"no data set {name!r}; {nearest(name, [*READERS, 'folder:PATH'])}")
    place = data_dir(folder) / name
    if name in REMOTES:
        if not present(place):
            if not fetch:
                raise DataError(f"no folder {place}")
            download(name, place)
        if verify:
            verify_files(name, place)
    return _marked(READERS[name](place, verify))


def _marked(both: tuple[Dataset, Dataset]) -> tuple[Dataset, Dataset]:
    return replace(both[0], split="train"), replace(both[1], split="test")


__all__ = [
    "READERS",
    "REMOTES",
    "SPLITS",
    "DataError",
    "Dataset",
    "Splits",
    "augment",
    "data_dir",
    "load",
    "make_splits",
    "stratified",
    "subset",
    "to_pixels",
]
