"""Adversarial images that an 8-bit file can store: every pixel is k/255, inside the ball and [0, 1].

An attacker who submits a file is restricted to these values; one who submits floating-point numbers is not.
A model may look robust only because it detects pixels between these values.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255
SHRINKING = 20
"""If rounding moves an L2 perturbation out of the ball, it is shortened in steps of 1/SHRINKING until it fits."""
ROOM = 1e-4
"""Tolerance for fp32 rounding at the edge of the ball, in grid levels."""


def on_grid(moved: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """`moved` (B, C, H, W) rounded to k/255, within `eps` of `images` and in [0, 1].

    L∞: each pixel takes the nearest grid value inside the ball. A pixel without such a value keeps its
    own; this happens only if the clean pixel is off the grid and eps is below 1/255. L2: the perturbation
    is shortened by twentieths until the rounded image lies in the ball. An image for which no length
    works (its clean image is off the grid too) is returned unchanged.
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
