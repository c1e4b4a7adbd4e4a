"""MNIST and Fashion-MNIST in the idx format, gzipped or not (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import (
    DataError,
    Dataset,
    Reader,
    Remote,
    Source,
    expect_size,
    find_file,
    read_regular,
    register,
)

LABEL_MAGIC, IMAGE_MAGIC = 0x00000801, 0x00000803
LARGEST = 2**30
"""Size limit of a file, compressed or not, in bytes; the largest published one has 47 million."""
MOST_PACKED = 1032
"""The maximum compression ratio of deflate."""
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple(str(i) for i in range(10))


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx1 or idx3 file; raises DataError for another magic number or length.

    The size in the header limits what is decompressed, so a small .gz cannot fill the memory.
    """
    packed = read_regular(path, LARGEST)
    source = gzip.GzipFile(fileobj=io.BytesIO(packed)) if path.suffix == ".gz" else io.BytesIO(packed)
    try:
        header, shape = _header(path, source.read(16))
        expected = math.prod(shape)
        if expected > LARGEST or expected > MOST_PACKED * len(packed):
            raise DataError(f"{path}: its header declares {expected} bytes, more than this file can hold")
        rest = header + source.read(max(0, expected + 1 - len(header)))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error})") from None
    if len(rest) > expected:
        raise DataError(f"{path}: more than the {expected} bytes that its header declares")
    start = 4 + 4 * len(shape)
    expect_size(path, start + len(rest), start + expected)
    return np.frombuffer(rest, np.uint8).reshape(shape)


def _header(path: Path, start: bytes) -> tuple[bytes, tuple[int, ...]]:
    """(the bytes after the header, shape), from the first 16 bytes of a file."""
    magic = int.from_bytes(start[:4], "big")
    if magic not in (LABEL_MAGIC, IMAGE_MAGIC):
        raise DataError(
            f"{path}: magic number {magic:#010x}, expected {LABEL_MAGIC:#010x} (labels) or {IMAGE_MAGIC:#010x} (images)"
        )
    dimensions = magic & 0xFF
    end = 4 + 4 * dimensions
    if len(start) < end:
        raise DataError(f"{path}: {len(start)} bytes, shorter than its header")
    return start[end:], tuple(int.from_bytes(start[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))


def reader(name: str, classes: tuple[str, ...]) -> Reader:
    """A reader of a data set in this format."""

    def half(folder: Path, prefix: str) -> Dataset:
        arrays = []
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
            path = find_file(folder, f"{prefix}-{kind}-ubyte.gz", f"{prefix}-{kind}-ubyte")
            array = read_idx(path)
            if array.ndim != dimensions:
                raise DataError(f"{path}: an idx{array.ndim} file, expected idx{dimensions}")
            arrays.append(torch.from_numpy(array.copy()))
        return Dataset(name, arrays[0][:, None].contiguous(), arrays[1].long(), classes)

    def read(folder: Path) -> tuple[Dataset, Dataset]:
        return half(folder, "train"), half(folder, "t10k")

    return read


def _remotes(base: str, sums: tuple[str, str, str, str]) -> tuple[Remote, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(Remote(f"{base}/{n}-ubyte.gz", s) for n, s in zip(names, sums, strict=True))


register(
    "mnist",
    Source(
        reader("mnist", DIGITS),
        image=(1, 28, 28),
        remotes=_remotes(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
    ),
)
register(
    "fashion-mnist",
    Source(
        reader("fashion-mnist", FASHION),
        image=(1, 28, 28),
        remotes=_remotes(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
    ),
)
