"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary and python versions.

The python version is a pickle. `pickles.loads` reads it without executing anything, and the published
checksum is compared with the bytes that are read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rheostat.data import pickles
from rheostat.data.base import DataError, Dataset, Reader, Remote, Source, expect_size, read_regular, register
from rheostat.data.downloads import check_md5

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
LARGEST = 2**28
"""Size limit of a batch file, in bytes; the published ones have at most 155 million."""


def read_pickle(path: Path, md5: str | None = None) -> dict[str, Any]:
    """A CIFAR python batch as a dict with text keys; raises DataError if it holds anything but plain data.

    `md5` is the checksum that the bytes must have; None skips the comparison.
    """
    raw = read_regular(path, LARGEST)
    if md5 is not None:
        check_md5(path, raw, md5)
    try:
        found = pickles.loads(raw)
    except DataError as error:
        raise DataError(f"{path}: refused, {error}; expected uint8 arrays, lists, strings and numbers only") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a dict")
    return {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in found.items()}


def _python_half(
    folder: Path, files: tuple[str, ...], key: str, each: int, sums: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for name in files:
        path = folder / name
        if not path.is_file():
            raise DataError(f"no {name} in {folder}")
        batch = read_pickle(path, sums.get(name))
        data, marks = batch.get("data"), batch.get(key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
            raise DataError(f"{path}: no uint8 array 'data'")
        if not isinstance(marks, list) or len(marks) != len(data):
            raise DataError(f"{path}: no list {key!r} as long as 'data'")
        if data.shape != (each, PIXELS):
            raise DataError(f"{path}: 'data' is {data.shape}, expected {(each, PIXELS)}")
        if not all(type(mark) is int and 0 <= mark < 256 for mark in marks):
            raise DataError(f"{path}: {key!r} must hold labels from 0 to 255 only")
        images.append(data)
        labels.append(np.asarray(marks, dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


def _binary_half(
    folder: Path, files: tuple[str, ...], bytes_of_labels: int, each: int
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for name in files:
        path = folder / name
        if not path.is_file():
            raise DataError(f"no {name} in {folder}")
        expected = each * (bytes_of_labels + PIXELS)
        expect_size(path, path.stat().st_size, expected)
        raw = np.frombuffer(read_regular(path, expected), np.uint8)
        table = raw.reshape(each, bytes_of_labels + PIXELS)
        labels.append(table[:, bytes_of_labels - 1].astype(np.int64))
        images.append(table[:, bytes_of_labels:])
    return np.concatenate(images), np.concatenate(labels)


def _dataset(name: str, arrays: tuple[np.ndarray, np.ndarray], classes: tuple[str, ...]) -> Dataset:
    images = torch.from_numpy(np.ascontiguousarray(arrays[0])).reshape(-1, 3, 32, 32)
    return Dataset(name, images, torch.from_numpy(arrays[1]), classes)


def _reader(
    name: str,
    *,
    python: str,
    binary: str,
    train: tuple[str, ...],
    test: tuple[str, ...],
    key: str,
    bytes_of_labels: int,
    classes: int,
    sums: Mapping[str, str],
) -> Reader:
    def read(folder: Path) -> tuple[Dataset, Dataset]:
        names = CIFAR10 if classes == 10 else tuple(str(i) for i in range(classes))
        for inside in (folder / binary, folder / python, folder):
            for suffix, is_binary in ((".bin", True), ("", False)):
                if not (inside / f"{train[0]}{suffix}").is_file():
                    continue
                each = 50_000 // len(train)
                halves = []
                for files, count in ((train, each), (test, 10_000)):
                    paths = tuple(f + suffix for f in files)
                    halves.append(
                        _binary_half(inside, paths, bytes_of_labels, count)
                        if is_binary
                        else _python_half(inside, paths, key, count, sums)
                    )
                return _dataset(name, halves[0], names), _dataset(name, halves[1], names)
        raise DataError(f"no {binary}/ and no {python}/ in {folder}")

    return read


def _source(
    reader: Callable[..., Reader], sums: Mapping[str, str], archive: str, md5: str, classes: int = 10
) -> Source:
    remote = Remote(f"https://www.cs.toronto.edu/~kriz/{archive}", md5, "tar")
    return Source(
        reader(sums={}), image=(3, 32, 32), classes=classes, remotes=(remote,), read_verified=reader(sums=sums)
    )


# The md5 of each batch of the python versions, taken from the archives that the same page publishes.
CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR100_BATCHES = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}

cifar10 = functools.partial(
    _reader,
    "cifar10",
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    key="labels",
    bytes_of_labels=1,
    classes=10,
)
cifar100 = functools.partial(
    _reader,
    "cifar100",
    python="cifar-100-python",
    binary="cifar-100-binary",
    train=("train",),
    test=("test",),
    key="fine_labels",
    bytes_of_labels=2,
    classes=100,
)
register("cifar10", _source(cifar10, CIFAR10_BATCHES, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"))
register(
    "cifar100",
    _source(cifar100, CIFAR100_BATCHES, "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", classes=100),
)
