"""How an image of any size becomes one that a network takes: its size, the rule that resizes it, grey or colour.

The rule is a value that goes into the model's file, so that a service, a playground and an evaluation do with an image
what the training did. The pixels are computed in `images.fitted`, which they all call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rheostat.data.base import DataError, Dataset
from rheostat.data.images import RESIZES, fitted, read_image
from rheostat.runtime.choices import check_choice

MODES = {"RGB": 3, "L": 1}
"""Colour and grey, as Pillow names them, with their channels."""
MOST_SIDE = 4096
"""Pixels of the longest side that a network may take."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done with an encoded image: `size` is (H, W), `mode` "RGB" or "L" (grey).

    `resize` "crop" (the default) takes the largest centred part that has the shape of `size`, which is the shorter side
    resized and the centre cropped; "stretch" takes the whole image and changes its shape; "pad" takes the whole image,
    keeps its shape and lays it on black. All of them filter bilinearly with antialiasing. An image of that size stays
    as it is. Orientations that a camera noted (EXIF) are not applied.
    """

    size: tuple[int, int]
    resize: str = "crop"
    mode: str = "RGB"

    def __post_init__(self) -> None:
        size = tuple(self.size)
        if len(size) != 2 or not all(isinstance(n, int) and 1 <= n <= MOST_SIDE for n in size):
            raise ValueError(f"size is (height, width), each from 1 to {MOST_SIDE} pixels, given {self.size!r}")
        object.__setattr__(self, "size", size)  # a list from a file counts as well
        check_choice("preprocessing", "resize", self.resize, RESIZES)
        check_choice("preprocessing", "mode", self.mode, MODES)

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, H, W) of what comes out."""
        return MODES[self.mode], *self.size

    def pixels_of(self, count: int) -> int:
        """Bytes of so many images as uint8."""
        return count * math.prod(self.image)

    def check(self, image: tuple[int, ...], where: str) -> None:
        """ValueError unless it gives images (C, H, W) of this shape."""
        if self.image != tuple(image):
            given, taken = (" × ".join(map(str, shape)) for shape in (self.image, image))
            raise ValueError(f"{where}: its preprocessing gives images of {given}, the network takes {taken}")

    def read(self, path: Path) -> Tensor:
        """An image file as (C, H, W) uint8; DataError that names a file that cannot be read."""
        return read_image(path, self.mode, self.fit)

    def fit(self, image: Image.Image) -> Image.Image:
        """A Pillow image of 8 bits in its mode and size."""
        return fitted(image.convert(self.mode), self.size[1], self.size[0], self.resize)

    def pixels(self, image: Image.Image) -> Tensor:
        """A Pillow image as (C, H, W) uint8."""
        found = torch.from_numpy(np.array(self.fit(image)))
        return found[None] if found.ndim == 2 else found.permute(2, 0, 1).contiguous()

    def applied(self, dataset: Dataset) -> Dataset:
        """A data set in memory with every image in this size and mode, each through the same rule."""
        if dataset.image == self.image:
            return replace(dataset, preprocessing=self)
        if dataset.image[0] not in MODES.values():
            raise DataError(f"{dataset.name}: images of {dataset.image[0]} channels are neither grey nor RGB")
        images = [self.pixels(_pillow(image)) for image in dataset.images]
        return replace(dataset, images=torch.stack(images), preprocessing=self)


def _pillow(image: Tensor) -> Image.Image:
    """(C, H, W) uint8 of one or three channels as a Pillow image."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
