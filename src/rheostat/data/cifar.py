"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary and python versions.

The python version is a pickle. It is read by an unpickler that allows arrays, lists, strings and
numbers, after a dry run of the whole stream in which every global is inert: anything else is refused
before any of it is run.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rheostat.data.base import DataError, Dataset, Reader, Remote, Source, expect_size, register

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(f"holds {module}.{name}")
        return super().find_class(module, name)


class _Inert:
    """What every global is in the dry run: it can be called and filled, and does nothing."""

    def __new__(cls, *arguments: object, **named: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        return


class _DryRun(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(f"holds {module}.{name}")
        return _Inert


def read_pickle(path: Path) -> dict[str, Any]:
    """A CIFAR python batch as a dict with text keys; DataError where it holds anything but data."""
    raw = path.read_bytes()
    try:
        _DryRun(io.BytesIO(raw), encoding="bytes").load()
        found = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: refused, {error}; expected arrays, lists, strings and numbers only") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: not a whole CIFAR batch ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a dict")
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in found.items()}


def _python_half(folder: Path, files: tuple[str, ...], key: str, each: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for name in files:
        path = folder / name
        if not path.is_file():
            raise DataError(f"no {name} in {folder}")
        batch = read_pickle(path)
        data, marks = batch.get("data"), batch.get(key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
            raise DataError(f"{path}: no uint8 array 'data'")
        if not isinstance(marks, list) or len(marks) != len(data):
            raise DataError(f"{path}: no list {key!r} as long as 'data'")
        if data.shape != (each, PIXELS):
            raise DataError(f"{path}: 'data' is {data.shape}, expected {(each, PIXELS)}")
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
        raw = np.fromfile(path, np.uint8)
        expect_size(path, raw.size, each * (bytes_of_labels + PIXELS))
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
                        else _python_half(inside, paths, key, count)
                    )
                return _dataset(name, halves[0], names), _dataset(name, halves[1], names)
        raise DataError(f"no {binary}/ and no {python}/ in {folder}")

    return read


cifar10 = _reader(
    "cifar10",
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    key="labels",
    bytes_of_labels=1,
    classes=10,
)
cifar100 = _reader(
    "cifar100",
    python="cifar-100-python",
    binary="cifar-100-binary",
    train=("train",),
    test=("test",),
    key="fine_labels",
    bytes_of_labels=2,
    classes=100,
)

# The md5 of the batches of the python version, published inside the same page's archive.
CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
register(
    "cifar10",
    Source(
        cifar10,
        image=(3, 32, 32),
        remotes=(
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "tar"
            ),
        ),
        checksums={f"cifar-10-batches-py/{name}": md5 for name, md5 in CIFAR10_BATCHES.items()},
    ),
)
register(
    "cifar100",
    Source(
        cifar100,
        image=(3, 32, 32),
        classes=100,
        remotes=(
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "tar"
            ),
        ),
    ),
)
