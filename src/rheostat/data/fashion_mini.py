"""A subset of Fashion-MNIST that ships with the package: 3 000 training and 500 test images (MIT licence included).

Each class has 300 training and 50 test images, drawn with a fixed seed from the two halves of Fashion-MNIST
(Xiao et al. 2017). It shows a trade-off in a minute but is too small to compare methods.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import Dataset, Source, register
from rheostat.data.idx import FASHION

SIDE, TRAIN, TEST = 28, 300, 50
"""Pixels per side; training and test images per class."""


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """(train 3 000, test 500), with alternating classes; `folder` is ignored.

    The packed picture holds the training images sorted by class, then the test images, 50 per line.
    """
    from PIL import Image

    with (resources.files("rheostat.data") / "packed" / "fashion-mini.png").open("rb") as file:
        sheet = np.asarray(Image.open(file))
    lines, across = (edge // SIDE for edge in sheet.shape)
    images = torch.from_numpy(sheet.reshape(lines, SIDE, across, SIDE).swapaxes(1, 2).reshape(-1, 1, SIDE, SIDE).copy())
    train, test = images.split([TRAIN * len(FASHION), TEST * len(FASHION)])
    return _taking_turns(train), _taking_turns(test)


def _taking_turns(images: torch.Tensor) -> Dataset:
    """Reorder images sorted by class so that every ten consecutive images hold each class once."""
    classes = len(FASHION)
    dealt = images.unflatten(0, (classes, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    return Dataset("fashion-mini", dealt, torch.arange(len(dealt)) % classes, FASHION)


register("fashion-mini", Source(read, image=(1, SIDE, SIDE)))
