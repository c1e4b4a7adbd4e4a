"""MNIST and Fashion-MNIST: the idx format, gzipped or not (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import DataError, Dataset, Reader, expect_size, find

LABEL_MAGIC, IMAGE_MAGIC = 0x00000801, 0x00000803
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple(str(i) for i in range(10))


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx1 or idx3 file; DataError on another magic number or length."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from None
    magic = int.from_bytes(raw[:4], "big")
    if magic not in (LABEL_MAGIC, IMAGE_MAGIC):
        raise DataError(
            f"{path}: magic number {magic:#010x}, expected {LABEL_MAGIC:#010x} (labels) or {IMAGE_MAGIC:#010x} (images)"
        )
    dimensions = magic & 0xFF
    header = 4 + 4 * dimensions
    if len(raw) < header:
        raise DataError(f"{path}: {len(raw)} bytes, shorter than its own header")
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    expect_size(path, len(raw), header + int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def reader(name: str, classes: tuple[str, ...]) -> Reader:
    """The reader of one data set in this format."""

    def half(folder: Path, prefix: str) -> Dataset:
        arrays = []
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
            path = find(folder, f"{prefix}-{kind}-ubyte.gz", f"{prefix}-{kind}-ubyte")
            array = read_idx(path)
            if array.ndim != dimensions:
                raise DataError(f"{path}: an idx{array.ndim} file, expected idx{dimensions}")
            arrays.append(torch.from_numpy(array.copy()))
        return Dataset(name, arrays[0][:, None].contiguous(), arrays[1].long(), classes)

    def read(folder: Path, verify: bool) -> tuple[Dataset, Dataset]:
        return half(folder, "train"), half(folder, "t10k")

    return read
