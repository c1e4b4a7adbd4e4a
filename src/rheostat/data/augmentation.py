"""Batches on the device: uint8 → [0, 1], random crops and flips as tensor operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AUGMENTATIONS = ("none", "crop", "crop-flip")


def to_pixels(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) → float in [0, 1]."""
    return images.float() / 255


def augment(
    images: Tensor,
    how: str,
    generator: torch.Generator,
    *,
    padding: int = 4,
    rows: slice = slice(None),
    batch: int | None = None,
) -> Tensor:
    """Random crop (zero padding) and horizontal flip, uint8 (B, C, H, W) → (B, C, H, W); `how` is in AUGMENTATIONS.

    The draws cover a whole batch of `batch` images, of which `images` are `rows`. Ranks that share a
    batch therefore get the same crops and flips as a single rank.
    """
    if how == "none":
        return images
    size = batch or len(images)
    shift = torch.randint(0, 2 * padding + 1, (2, size), generator=generator)[:, rows]
    flip = torch.rand(size, generator=generator)[rows] < 0.5
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    down = shift[0].to(device)[:, None] + torch.arange(height, device=device)
    across = shift[1].to(device)[:, None] + torch.arange(width, device=device)
    if how == "crop-flip":
        across = torch.where(flip.to(device)[:, None], across.flip(1), across)
    place = torch.arange(count, device=device)
    # (B, H, W, C): the three index tensors leave the channel axis in place.
    taken = padded.permute(0, 2, 3, 1)[place[:, None, None], down[:, :, None], across[:, None, :]]
    return taken.permute(0, 3, 1, 2)
