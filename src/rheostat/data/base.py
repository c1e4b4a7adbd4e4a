"""A data set in memory: uint8 images, labels, class names."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rheostat.runtime.registry import Registry, origin_of

if TYPE_CHECKING:
    from rheostat.data.preprocessing import Preprocessing


class DataError(ValueError):
    """A file is missing, corrupt or not in the expected format; the message names it."""


WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""The types of labels, which are kept as int64."""


HISTOGRAM_IMAGES = 4096
"""Images that are counted at a time for the statistics of a data set."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) uint8 and labels (N,) of whole numbers, kept as int64; `classes` are the class names.

    `split` is the split the images come from (train, calibrate-fit, calibrate-choose, test), or "" if it is
    unknown; nothing may be chosen on test. `preprocessing` is the rule that resized the images, or None.
    Raises DataError for other types or shapes, or for labels outside 0 to len(classes) - 1.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: str = ""
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"{self.name}: images must be (N, C, H, W) uint8")
        if self.labels.ndim != 1 or self.labels.dtype not in WHOLE:
            raise DataError(
                f"{self.name}: labels must be (N,) whole numbers, given {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        object.__setattr__(self, "labels", self.labels.long())
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
        """The shape of one image, (C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def only(self, rows: Tensor) -> Dataset:
        """The given rows of this data set; `rows` (n,) is an int64 index."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def to(self, device: torch.device) -> Dataset:
        """The whole data set on a device, still uint8."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def fingerprint(self) -> str:
        """A hash of images and labels, which identifies the data set."""
        found = hashlib.sha256(f"{tuple(self.images.shape)}".encode())
        for tensor in (self.images, self.labels):
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def to_choose_on(self) -> Dataset:
        """This data set; raises ValueError if it is the test split, on which nothing may be fitted or chosen."""
        check_choosable(self.name, self.split)
        return self

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of pixels in [0, 1]; raises DataError if there are no images."""
        if not self.images.numel():
            raise DataError(f"{self.name} is empty")
        moments = [_moments(self.images[:, channel]) for channel in range(self.images.shape[1])]
        return tuple(round(mean, 4) for mean, _ in moments), tuple(round(max(std, 0.01), 4) for _, std in moments)


def _moments(pixels: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels (N, H, W), as shares of 255, from the histogram of their values."""
    parts = pixels.split(HISTOGRAM_IMAGES)  # so that little memory is needed beside the images
    counts = torch.stack([torch.bincount(part.flatten(), minlength=256) for part in parts]).sum(0).tolist()
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    return first / (255 * total), math.sqrt(total * second - first * first) / (255 * total)


def check_order(what: str, given: Sequence[str], own: Sequence[str]) -> None:
    """Raise DataError if images have the classes of a model in another order: their labels mean other classes.

    The numbers "0", "1", ... stand for classes without names, so nothing follows from their order.
    """
    numbers = {str(i) for i in range(len(own))}
    if tuple(given) == tuple(own) or sorted(given) != sorted(own) or set(own) == numbers:
        return
    first = next(i for i, (one, other) in enumerate(zip(given, own, strict=True)) if one != other)
    theirs, ours = (", ".join(names[first : first + 8]) for names in (given, own))
    raise DataError(
        f"{what} has the classes of the model in another order: from label {first} they are {theirs}, but {ours} in "
        "the model; number the labels in the order of the model"
    )


def check_choosable(name: str, split: str) -> None:
    """Raise ValueError for the test split, on which nothing may be fitted or chosen."""
    if split == "test":
        raise ValueError(
            f"{name}: this is the test split, and nothing may be fitted or chosen on test; use calibrate-fit"
        )


@dataclass(frozen=True)
class Remote:
    """A published file: its URL, its md5, and "tar" or "zip" in `unpack` if it is an archive."""

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
    """A registered data set: its reader, the form of its images, and its published files.

    `image` (C, H, W) and `classes` (a count) let a recipe be validated before anything is read; `image` is None
    if it is not known in advance. `remotes` are the published files, which are downloaded if the folder is
    absent. `read_verified` is a reader that compares the published checksums with the bytes it reads. Without
    it, the files of `remotes` that are not archives are compared before `read`.
    """

    read: Reader
    image: tuple[int, int, int] | None = None
    classes: int = 10
    remotes: tuple[Remote, ...] = ()
    read_verified: Reader | None = None

    def sums(self) -> dict[str, str]:
        """The published md5 by file name, without archives."""
        return {r.name: r.md5 for r in self.remotes if not r.unpack}


DATASETS: Registry[Source] = Registry("data set", group="rheostat.datasets")


def register(name: str, source: Source) -> Source:
    """Register a data set under a name and return it. Raises ValueError if the name is taken."""
    return DATASETS.register(name, source, origin=f"{origin_of(source.read)} ({name})")


def find_file(folder: Path, *names: str) -> Path:
    """The path of the first of these names that exists in the folder; raises DataError that lists all of them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {' or '.join(names)} in {folder}")


def expect_size(path: Path, given: int, expected: int) -> None:
    """Raise DataError that names the file unless it holds the expected number of bytes."""
    if given != expected:
        raise DataError(f"{path}: {given} bytes, expected {expected} (truncated or another format)")


def read_regular(path: Path, largest: int) -> bytes:
    """The bytes of a regular file; raises DataError for a pipe, a device, or more than `largest` bytes.

    The file is opened without blocking and checked before it is read, so a pipe cannot stall the caller.
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
            raise DataError(f"{path}: {about.st_size} bytes; the limit is {largest}")
        with os.fdopen(number, "rb", closefd=False) as file:
            return file.read(largest)
    finally:
        os.close(number)
