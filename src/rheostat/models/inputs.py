"""Check a model's input: images of its shape, finite floats in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-3
"""How far a pixel may lie outside [0, 1], to allow for rounding and half precision."""


def check_images(x: Tensor, image: tuple[int, int, int]) -> None:
    """ValueError with advice unless x is (B, C, H, W) with this (C, H, W), floating-point, finite and in [0, 1]."""
    shape = tuple(x.shape)
    if x.ndim != 4:
        raise ValueError(f"a model takes images (B, C, H, W), given shape {shape}; add the batch dimension")
    if shape[1:] != tuple(image):
        raise ValueError(
            f"this model takes images of {' × '.join(map(str, image))}, given {' × '.join(map(str, shape[1:]))}"
        )
    if not x.is_floating_point():
        raise ValueError(f"pixels are floats in [0, 1], given {x.dtype}; write x.float() / 255")
    if not x.numel():
        return
    check_range(*(float(v) for v in torch.aminmax(x.detach())))


def check_range(low: float, high: float) -> None:
    """Raise ValueError that says what to do, unless the lowest and the highest pixel are finite and lie in [0, 1]."""
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # true for NaN too
        hint = "; the model normalises its input itself, and `.unchecked()` disables this check"
        if low >= 0 and 2 < high <= 255:
            hint = "; write x / 255"
        raise ValueError(f"pixels lie in [0, 1] and are finite, given {low:g} to {high:g}{hint}")
