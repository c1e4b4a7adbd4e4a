"""Data sets, one per file, each registered by its file; splits; augmentation on the device."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rheostat.data import folders, hugging_face
from rheostat.data.augmentation import augment, to_pixels
from rheostat.data.base import DATASETS, DataError, Dataset, Reader, Remote, Source, register
from rheostat.data.downloads import download, present, verify_files
from rheostat.data.folders import ImageFolder, read_folder
from rheostat.data.preprocessing import Preprocessing
from rheostat.data.splits import SPLITS, Splits, make_splits, stratified, subset
from rheostat.runtime.choices import nearest
from rheostat.runtime.registry import import_files

import_files(__name__, __path__)


def data_dir(given: str | Path | None = None) -> Path:
    """The folder that holds data sets: `given`, else RHEOSTAT_DATA, else the user's cache."""
    if given is not None:
        return Path(given)
    if os.environ.get("RHEOSTAT_DATA"):
        return Path(os.environ["RHEOSTAT_DATA"])
    return Path.home() / ".cache" / "rheostat"


PREFIXES = {"folder:": "folder:PATH", hugging_face.PREFIX: "hf:NAME"}
"""Prefixes of names that are not in the registry, and their patterns."""


def load(
    name: str,
    *,
    folder: str | Path | None = None,
    verify: bool = True,
    fetch: bool = True,
    preprocessing: Preprocessing | None = None,
) -> tuple[Dataset, Dataset]:
    """(train, test) of a registered data set, of `folder:PATH` (a tree train/CLASS, test/CLASS), or of `hf:NAME`.

    A registered data set is read from `folder`/name; if it is absent and `fetch` is set, it is downloaded there.
    `hf:NAME` or `hf:NAME:CONFIG` is read from the cache of Hugging Face's `datasets` and never downloaded.
    `preprocessing` resizes every image by its rule; without it all images of a folder must have one size. `verify`
    compares published checksums. Raises ValueError for an unknown name, and DataError that names a missing or
    unexpected file.
    """
    if name.startswith("folder:"):
        return _marked(folders.read(Path(name.removeprefix("folder:")), preprocessing))
    if name.startswith(hugging_face.PREFIX):
        return _marked(hugging_face.read(name.removeprefix(hugging_face.PREFIX), preprocessing))
    check_known(name)
    source, inside = DATASETS.get(name), data_dir(folder) / name
    if source.remotes and not present(inside):
        if not fetch:
            raise DataError(f"no folder {inside}")
        download(source.remotes, inside)
    if verify:
        verify_files(source.sums(), inside)
    read = source.read_verified if verify and source.read_verified is not None else source.read
    train, test = read(inside)
    if preprocessing is not None:
        train, test = preprocessing.applied(train), preprocessing.applied(test)
    return _marked((train, test))


def order_hash(name: str, train: Dataset) -> str:
    """A hash of what decides the splits of `folder:` and `hf:` images, which anyone may change; "" for other names.

    These are the files of a folder, or the labels in order. Pixels do not count: another decoder gives others.
    """
    if name.startswith("folder:"):
        order: list[Any] = folders.train_names(Path(name.removeprefix("folder:")))
    elif name.startswith(hugging_face.PREFIX):
        order = train.labels.tolist()
    else:
        return ""
    return hashlib.sha256(repr(order).encode()).hexdigest()[:16]


def check_known(name: str) -> None:
    """Raise ValueError with the nearest name unless `name` is registered, `folder:PATH` or `hf:NAME`."""
    if not name.startswith(tuple(PREFIXES)) and name not in DATASETS:
        raise ValueError(f"no data set {name!r}; {nearest(name, [*DATASETS, *PREFIXES.values()])}")


def _marked(both: tuple[Dataset, Dataset]) -> tuple[Dataset, Dataset]:
    return replace(both[0], split="train"), replace(both[1], split="test")


__all__ = [
    "DATASETS",
    "SPLITS",
    "DataError",
    "Dataset",
    "ImageFolder",
    "Preprocessing",
    "Reader",
    "Remote",
    "Source",
    "Splits",
    "augment",
    "check_known",
    "data_dir",
    "load",
    "make_splits",
    "order_hash",
    "read_folder",
    "register",
    "stratified",
    "subset",
    "to_pixels",
]
