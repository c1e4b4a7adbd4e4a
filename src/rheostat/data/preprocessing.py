"""Preprocessing of images of any size for a network: the target size, the resizing rule, grey or colour.

The rule is stored in the model's file, so that a service, a playground and an evaluation treat an image as training
did. They all compute the pixels with `images.fitted`.
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
from rheostat.data.images import RESIZES, eight_bits, fitted, read_image
from rheostat.runtime.choices import check_choice

MODES = {"RGB": 3, "L": 1}
"""Pillow's names of colour and grey, with their number of channels."""
MOST_SIDE = 4096
"""The longest side allowed, in pixels."""


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an encoded image: `size` is (H, W) in pixels, `mode` "RGB" or "L" (grey).

    `resize` "crop" (the default) resizes the shorter side and crops the centre. "stretch" resizes the whole image and
    changes its aspect ratio. "pad" keeps the aspect ratio and fills the rest with black. All three use an antialiased
    bilinear filter and leave an image of the right size unchanged. EXIF orientation is not applied.
    Raises ValueError for a bad size, rule or mode.
    """

    size: tuple[int, int]
    resize: str = "crop"
    mode: str = "RGB"

    def __post_init__(self) -> None:
        size = tuple(self.size)
        if len(size) != 2 or not all(isinstance(n, int) and 1 <= n <= MOST_SIDE for n in size):
            raise ValueError(f"size must be (height, width), each from 1 to {MOST_SIDE} pixels, given {self.size!r}")
        object.__setattr__(self, "size", size)  # a file stores it as a list
        check_choice("preprocessing", "resize", self.resize, RESIZES)
        check_choice("preprocessing", "mode", self.mode, MODES)

    @property
    def image(self) -> tuple[int, int, int]:
        """The shape of a preprocessed image, (C, H, W)."""
        return MODES[self.mode], *self.size

    def pixels_of(self, count: int) -> int:
        """The size of `count` images as uint8, in bytes."""
        return count * math.prod(self.image)

    def check(self, image: tuple[int, ...], where: str) -> None:
        """Raise ValueError unless preprocessed images have this shape (C, H, W)."""
        if self.image != tuple(image):
            given, taken = (" × ".join(map(str, shape)) for shape in (self.image, image))
            raise ValueError(f"{where}: its preprocessing gives images of {given}, but the network takes {taken}")

    def read(self, path: Path) -> Tensor:
        """An image file as (C, H, W) uint8; raises DataError that names the file if it cannot be read."""
        return read_image(path, self.mode, self.fit)

    def fit(self, image: Image.Image) -> Image.Image:
        """A Pillow image, converted to this mode and size; raises ImageProblem for 32-bit pixels."""
        return fitted(eight_bits(image).convert(self.mode), self.size[1], self.size[0], self.resize)

    def pixels(self, image: Image.Image) -> Tensor:
        """A Pillow image, converted to this mode and size, as (C, H, W) uint8; raises ImageProblem as `fit`."""
        found = torch.from_numpy(np.array(self.fit(image)))
        return found[None] if found.ndim == 2 else found.permute(2, 0, 1).contiguous()

    def applied(self, dataset: Dataset) -> Dataset:
        """The data set with every image converted to this size and mode."""
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
