"""A data set in memory: uint8 images, labels, class names."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rheostat.runtime.registry import Registry, origin_of

if TYPE_CHECKING:
    from rheostat.data.preprocessing import Preprocessing


class DataError(ValueError):
    """A file that is absent, corrupt or not what was expected; the message names it."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) uint8 and labels (N,) int64; `classes` are their names.

    `split` says where they are from (train, calibrate-fit, calibrate-choose, test), where it is
    known: nothing is ever chosen on test. `preprocessing` is how its images got their size, where they were resized.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: str = ""
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"{self.name}: images are (N, C, H, W) uint8")
        if len(self.images) != len(self.labels):
            raise DataError(f"{self.name}: {len(self.images)} images but {len(self.labels)} labels")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(
                f"{self.name}: labels from {int(self.labels.min())} to {int(self.labels.max())}, "
                f"expected 0 to {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def only(self, rows: Tensor) -> Dataset:
        """Some rows of this set."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def to(self, device: torch.device) -> Dataset:
        """The whole set on a device, still uint8."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def fingerprint(self) -> str:
        """A hash of images and labels: what tells two data sets apart."""
        found = hashlib.sha256(f"{tuple(self.images.shape)}".encode())
        for tensor in (self.images, self.labels):
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def to_choose_on(self) -> Dataset:
        """This set; ValueError if it is the test split, on which nothing is chosen."""
        if self.split == "test":
            raise ValueError(
                f"{self.name}: this is the test split, and nothing is fitted or chosen on test; give calibrate-fit"
            )
        return self

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of pixels in [0, 1]."""
        pixels = self.images.double() / 255
        mean = pixels.mean((0, 2, 3))
        std = pixels.std((0, 2, 3), correction=0)
        return (tuple(round(float(v), 4) for v in mean), tuple(round(max(float(v), 0.01), 4) for v in std))


@dataclass(frozen=True)
class Remote:
    """A published file: where it is, its md5, and whether it is an archive to unpack."""

    url: str
    md5: str
    unpack: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]


Reader = Callable[[Path], tuple[Dataset, Dataset]]
"""Folder → (train, test)."""


@dataclass(frozen=True)
class Source:
    """A data set as its own file registers it: the reader, and what it gives and needs.

    `image` (C, H, W) and `classes` are those of every image of it, so that a recipe can be validated before
    anything is read (None: not known before). `remotes` are its published files, which are downloaded where
    the folder is absent. `read_verified` is a reader that compares the published checksums of the very bytes
    that it reads; without one, files of `remotes` that are not archives are compared before `read`.
    """

    read: Reader
    image: tuple[int, int, int] | None = None
    classes: int = 10
    remotes: tuple[Remote, ...] = ()
    read_verified: Reader | None = None

    def sums(self) -> dict[str, str]:
        """The published md5 of every file of the folder that has one."""
        return {r.name: r.md5 for r in self.remotes if not r.unpack}


DATASETS: Registry[Source] = Registry("data set", group="rheostat.datasets")


def register(name: str, source: Source) -> Source:
    """Enter a data set by its name; returns it. ValueError if the name is taken."""
    return DATASETS.register(name, source, origin=f"{origin_of(source.read)} ({name})")


def find_file(folder: Path, *names: str) -> Path:
    """The first of some file names that exists below the folder; DataError lists what was expected."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {' or '.join(names)} in {folder}")


def expect_size(path: Path, given: int, expected: int) -> None:
    """DataError that names the file unless it holds the expected number of bytes."""
    if given != expected:
        raise DataError(f"{path}: {given} bytes, expected {expected} (truncated or not this format)")


def read_regular(path: Path, largest: int) -> bytes:
    """The bytes of a regular file; DataError for a pipe, a device, or a file of more than `largest` bytes.

    A pipe is not waited for: the file is opened without blocking and looked at before it is read.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    try:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path}: not a regular file")
        if about.st_size > largest:
            raise DataError(f"{path}: {about.st_size} bytes; at most {largest} are read")
        with os.fdopen(number, "rb", closefd=False) as file:
            return file.read(largest)
    finally:
        os.close(number)
