"""SVHN, cropped digits (Netzer et al. 2011), in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import DataError, Dataset, Remote, Source, find_file, register
from rheostat.data.mat import read_mat


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from train_32x32.mat and test_32x32.mat; label 10 becomes 0."""
    halves = []
    for name in ("train_32x32.mat", "test_32x32.mat"):
        path = find_file(folder, name)
        found = read_mat(path)
        images, labels = found.get("X"), found.get("y")
        if images is None or labels is None:
            raise DataError(f"{path}: no variables 'X' and 'y'")
        if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
            raise DataError(f"{path}: 'X' is {images.shape} {images.dtype}, expected (32, 32, 3, N) uint8")
        if labels.size != images.shape[3] or not np.isin(labels, range(1, 11)).all():
            raise DataError(f"{path}: 'y' is {labels.shape}, expected {images.shape[3]} labels from 1 to 10")
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
        marks = torch.from_numpy(labels.reshape(-1).astype(np.int64)) % 10
        halves.append(Dataset("svhn", pixels, marks, tuple(str(i) for i in range(10))))
    return halves[0], halves[1]


register(
    "svhn",
    Source(
        read,
        image=(3, 32, 32),
        remotes=(
            Remote("http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            Remote("http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
    ),
)
