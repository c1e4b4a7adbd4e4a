"""Data sets, one a file, registered by that file; splits, and augmentation on the device."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from rheostat.data import folders
from rheostat.data.augmentation import augment, to_pixels
from rheostat.data.base import DATASETS, DataError, Dataset, Reader, Remote, Source, register
from rheostat.data.downloads import download, verify_files
from rheostat.data.splits import SPLITS, Splits, make_splits, stratified, subset
from rheostat.runtime.choices import nearest
from rheostat.runtime.registry import import_files

import_files(__name__, __path__)


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
        return _marked(folders.read(Path(name.removeprefix("folder:"))))
    check_known(name)
    source, inside = DATASETS.get(name), data_dir(folder) / name
    if source.remotes and not inside.is_dir():
        if not fetch:
            raise DataError(f"no folder {inside}")
        download(source.remotes, inside)
    if verify:
        verify_files(source.sums(), inside)
    return _marked(source.read(inside))


def check_known(name: str) -> None:
    """ValueError that names the nearest unless a data set has this name, or it is `folder:PATH`."""
    if not name.startswith("folder:") and name not in DATASETS:
        raise ValueError(f"no data set {name!r}; {nearest(name, [*DATASETS, 'folder:PATH'])}")


def _marked(both: tuple[Dataset, Dataset]) -> tuple[Dataset, Dataset]:
    return replace(both[0], split="train"), replace(both[1], split="test")


__all__ = [
    "DATASETS",
    "SPLITS",
    "DataError",
    "Dataset",
    "Reader",
    "Remote",
    "Source",
    "Splits",
    "augment",
    "check_known",
    "data_dir",
    "load",
    "make_splits",
    "register",
    "stratified",
    "subset",
    "to_pixels",
]
