"""The digits of scikit-learn: 1 797 grey images of 8×8, included in that package."""

from __future__ import annotations

from pathlib import Path

import torch

from rheostat.data.base import Dataset, Source, register
from rheostat.data.splits import stratified


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """(train 1 437, test 360), a fixed stratified split; `folder` is ignored."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images).float() * (255 / 16)
    images = pixels.round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target).long()
    everything = Dataset("digits", images, labels, tuple(str(i) for i in range(10)))
    test, train = stratified(labels, (360, 1437), seed=0)
    return everything.only(train), everything.only(test)


register("digits", Source(read, image=(1, 8, 8)))
