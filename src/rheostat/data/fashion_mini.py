"""A small Fashion-MNIST that comes with the package: 3 000 training and 500 test images (MIT licence, beside it).

Of each class 300 training and 50 test images, drawn with a fixed seed from the two halves of Fashion-MNIST
(Xiao et al. 2017). It shows a trade-off in a minute; it is too small to compare methods on.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import Dataset, Source, register
from rheostat.data.idx import FASHION

SIDE, TRAIN, TEST = 28, 300, 50
"""Pixels of a side; images of a class in each half."""


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """(train 3 000, test 500), the classes taking turns; the folder is not used.

    The packed picture holds the training images class by class, then the test images, 50 in a line.
    """
    from PIL import Image

    with (resources.files("rheostat.data") / "packed" / "fashion-mini.png").open("rb") as file:
        sheet = np.asarray(Image.open(file))
    lines, across = (edge // SIDE for edge in sheet.shape)
    images = torch.from_numpy(sheet.reshape(lines, SIDE, across, SIDE).swapaxes(1, 2).reshape(-1, 1, SIDE, SIDE).copy())
    train, test = images.split([TRAIN * len(FASHION), TEST * len(FASHION)])
    return _taking_turns(train), _taking_turns(test)


def _taking_turns(images: torch.Tensor) -> Dataset:
    """Images sorted by class, dealt so that every ten images hold each class once."""
    classes = len(FASHION)
    dealt = images.unflatten(0, (classes, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    return Dataset("fashion-mini", dealt, torch.arange(len(dealt)) % classes, FASHION)


register("fashion-mini", Source(read, image=(1, SIDE, SIDE)))
