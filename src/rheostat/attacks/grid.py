"""Adversarial images as files of 8 bits can hold them: every pixel k/255, inside the ball and [0, 1].

A model that detects pixels between those values may answer well on them alone; an attacker who hands in a
file is held to the grid, one who hands in floating-point numbers is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255
SHRINKING = 20
"""An L2 perturbation that leaves the ball when it is rounded is shortened by twentieths until it does not."""
ROOM = 1e-4
"""Room for rounding of fp32 at the edge of the ball, in levels of the grid."""


def on_grid(moved: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """`moved` (B, C, H, W) rounded to k/255, within `eps` of `images` and in [0, 1].

    L∞: each pixel takes the value of the grid next to it among those that the ball admits. A pixel that the
    ball admits none for keeps its value: that needs a clean pixel off the grid and eps below 1/255. L2:
    the perturbation is shortened by twentieths until its rounded image lies in the ball; an image for
    which none does (its clean image is off the grid too) comes back as it is.
    """
    if norm == "linf":
        low = ((images - eps).clamp_min(0) * LEVELS - ROOM).ceil()
        high = ((images + eps).clamp_max(1) * LEVELS + ROOM).floor()
        rounded = (moved * LEVELS).round().clamp(low, torch.maximum(low, high)) / LEVELS
        return torch.where(low <= high, rounded, moved)
    out, open_rows = moved.clone(), torch.ones(len(moved), dtype=torch.bool, device=moved.device)
    for part in range(SHRINKING, -1, -1):
        near = ((images + (moved - images) * (part / SHRINKING)) * LEVELS).round().clamp(0, LEVELS) / LEVELS
        fits = open_rows & ((near - images).flatten(1).norm(dim=1) <= eps)
        out = torch.where(fits.reshape(-1, 1, 1, 1), near, out)
        open_rows &= ~fits
    return out
