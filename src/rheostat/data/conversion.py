"""Conversion of foreign pixels and labels into uint8 images (C, H, W) and labels from 0 to K-1.

Floats in [0, 1] are rounded to 8 bits, as in an image file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheostat.data.base import DataError
from rheostat.data.images import ImageProblem, eight_bits
from rheostat.data.preprocessing import Preprocessing

IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


@dataclass(frozen=True)
class Form:
    """The input form of a model: the image shape (C, H, W) and the class names.

    `columns` are the keys of image and label for items that are dicts. `preprocessing` resizes Pillow images;
    without it they must have the model's size. `renamed`: the caller gave the class names, which therefore hold for
    all images, whatever names a data set has.
    """

    image: tuple[int, int, int]
    classes: tuple[str, ...]
    columns: tuple[str, str] | None = None
    preprocessing: Preprocessing | None = None
    renamed: bool = False


def as_uint8(pixels: Tensor, where: str) -> Tensor:
    """Pixels as uint8: integers from 0 to 255 unchanged, floats in [0, 1] rounded to k/255. Else raises DataError."""
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.numel():
        return pixels.to(torch.uint8)
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.is_floating_point():
        if low >= 0 and high <= 1:
            return (pixels * 255).round().to(torch.uint8)
        if low >= 0 and 1 < high <= 255:
            advice = "divide them by 255, or pass uint8"
        else:
            advice = "remove normalisation from the transform; the model normalises (mean and std of `adopt`)"
        raise DataError(f"{where}: pixels from {low:g} to {high:g}, expected floats in [0, 1] or uint8; {advice}")
    if pixels.dtype != torch.bool and low >= 0 and high <= 255:
        return pixels.to(torch.uint8)
    raise DataError(f"{where}: pixels of {pixels.dtype} from {low:g} to {high:g}, expected uint8 or floats in [0, 1]")


def image_of(value: Any, form: Form, where: str) -> Tensor:
    """One image as (C, H, W) uint8, from a tensor or array (H, W, C) or (C, H, W), nested lists, or a PIL image.

    Raises DataError for another size or other pixels.
    """
    if hasattr(value, "convert"):  # a PIL image, converted to the mode that matches the model's channels
        try:
            if form.preprocessing is not None:
                return form.preprocessing.pixels(value)
            value = np.array(eight_bits(value).convert("L" if form.image[0] == 1 else "RGB"))
        except ImageProblem as problem:
            raise DataError(f"{where}: {problem}") from None
    try:
        # A view with a negative stride, such as img[:, :, ::-1], is no tensor yet.
        pixels = torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError, RuntimeError) as problem:  # a path, an object, lists of different lengths
        raise DataError(
            f"{where}: an image is a {type(value).__name__}; give tensors, arrays or Pillow images, or read files with "
            f"data.read_folder ({problem})"
        ) from None
    channels, height, width = form.image
    shape = tuple(pixels.shape)
    if shape == (height, width) and channels == 1:
        pixels = pixels[None]
    elif shape == (height, width, channels) and shape != form.image:
        pixels = pixels.permute(2, 0, 1)
    elif shape != form.image:
        raise DataError(
            f"{where}: image of {' × '.join(map(str, shape))}, but the model takes {' × '.join(map(str, form.image))}; "
            "resize it in the data set's transform (Pillow images: preprocessing=data.Preprocessing(size=(H, W))), or "
            "build the model for this size"
        )
    return as_uint8(pixels, where)


def label_of(value: Any, form: Form, where: str) -> int:
    """One label as a number from 0 to K-1; raises DataError for anything else."""
    if hasattr(value, "item"):  # a tensor, or an array or scalar of NumPy
        if tuple(value.shape) not in ((), (1,)):
            raise DataError(f"{where}: label of shape {tuple(value.shape)}, expected one number")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        raise DataError(f"{where}: the label {value!r} is not a whole number")
    check_labels(torch.tensor([int(value)]), form, where)
    return int(value)


def check_labels(labels: Tensor, form: Form, where: str) -> None:
    """Raise DataError if a label is outside 0 to K-1."""
    count = len(form.classes)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        raise DataError(
            f"{where}: labels from {int(labels.min())} to {int(labels.max())}, but the model has {count} classes, "
            f"0 to {count - 1}"
        )


def pair_of(item: Any, form: Form, where: str) -> tuple[Any, Any]:
    """(image, label) of an item that is a pair or a dict; raises DataError for another item or unclear columns."""
    if isinstance(item, Mapping):
        image, label = form.columns or (_column(item, IMAGE_COLUMNS, where), _column(item, LABEL_COLUMNS, where))
        for key in (image, label):
            if key not in item:
                raise DataError(f"{where}: no column {key!r}; allowed: {', '.join(map(str, item))}")
        return item[image], item[label]
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
        return item[0], item[1]
    raise DataError(f"{where}: item of type {type(item).__name__}, expected a pair (image, label) or a dict with both")


def _column(item: Mapping[Any, Any], names: tuple[str, ...], where: str) -> str:
    found = [name for name in names if name in item]
    if len(found) != 1:
        raise DataError(
            f"{where}: {len(found)} of the columns {', '.join(map(str, item))} match, expected 1; name them: "
            'columns=("image", "label")'
        )
    return found[0]


def example_of(item: Any, form: Form, where: str) -> tuple[Tensor, int]:
    """An item as (image (C, H, W) uint8, label)."""
    image, label = pair_of(item, form, where)
    return image_of(image, form, where), label_of(label, form, where)
