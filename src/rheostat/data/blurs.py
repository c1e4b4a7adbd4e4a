"""Blurs of whole batches (defocus, glass, motion, zoom) and elastic deformation; `corruptions` uses them.

Images are float (N, C, H, W) in [0, 1]; random values are drawn separately for each image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """Normalised Gaussian weights (2·radius + 1,); sigma and radius in pixels."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def gaussian_blur(images: Tensor, sigma: float, *, truncate: float = 4.0) -> Tensor:
    """Gaussian blur of every channel, with replicated edges; sigma in pixels."""
    radius = max(1, int(truncate * sigma + 0.5))
    weights = gaussian_kernel(sigma, radius).to(images)
    channels = images.shape[1]
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    padded = F.conv2d(padded, weights.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(padded, weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)


def mirrored(images: Tensor, size: int) -> Tensor:
    """Images padded by `size` reflected pixels at every edge; small images are reflected several times.

    Raises ValueError for an image that is only 1 pixel high or wide.
    """
    down = across = size
    while down or across:  # torch reflects less than one side at a time; whole sides keep the reflection periodic
        some, more = min(down, images.shape[2] - 1), min(across, images.shape[3] - 1)
        if (down and not some) or (across and not more):
            raise ValueError(f"images of {images.shape[2]} × {images.shape[3]} are too small to reflect")
        images = F.pad(images, (more, more, some, some), mode="reflect")
        down, across = down - some, across - more
    return images


def defocus(images: Tensor, radius: float, softness: float) -> Tensor:
    """Images blurred by a disk of `radius` pixels; a 3×3 Gaussian with sigma `softness` smooths its edge."""
    size = 8
    axis = torch.arange(-size, size + 1, dtype=torch.float32)
    disk = ((axis[:, None] ** 2 + axis[None, :] ** 2) <= radius**2).float()
    disk = disk / disk.sum()
    soft = gaussian_kernel(softness, 1)
    disk = F.conv2d(disk[None, None], (soft[:, None] * soft[None, :])[None, None], padding=1)
    channels = images.shape[1]
    padded = mirrored(images, size)
    return F.conv2d(padded, disk.to(images).repeat(channels, 1, 1, 1), groups=channels)


def glass(images: Tensor, sigma: float, reach: int, rounds: int, generator: Generator) -> Tensor:
    """Images blurred, their pixels swapped with neighbours up to `reach` pixels away, and blurred again."""
    count, _, height, width = images.shape
    pixels = (gaussian_blur(images, sigma) * 255).floor()
    every = torch.arange(count)
    for _ in range(rounds):
        for row in range(height - reach - 1, reach - 1, -1):
            for column in range(width - reach - 1, reach - 1, -1):
                offsets = torch.randint(-reach, reach, (2, count), generator=generator)
                other_row, other_column = row + offsets[0], column + offsets[1]
                here = pixels[:, :, row, column].clone()
                pixels[:, :, row, column] = pixels[every, :, other_row, other_column]
                pixels[every, :, other_row, other_column] = here
    return gaussian_blur(pixels / 255, sigma)


def motion(images: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Images smeared along a line, image i at `angles[i]` radians, by a one-sided Gaussian of 2·radius + 1 weights."""
    count, _, height, width = images.shape
    steps = torch.arange(2 * radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(images, (radius * 2,) * 4, mode="replicate")
    smeared = torch.zeros_like(images)
    # A fractional shift is a weighted mean of the four nearest whole-pixel shifts.
    every = torch.arange(count)[:, None, None]
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    layers = padded.movedim(1, -1)
    for step, weight in zip(steps.tolist(), weights.tolist(), strict=True):
        down, right = -step * torch.sin(angles), -step * torch.cos(angles)
        for corner_row in (0, 1):
            for corner_column in (0, 1):
                base_row, base_column = down.floor(), right.floor()
                share_row = (down - base_row) if corner_row else 1 - (down - base_row)
                share_column = (right - base_column) if corner_column else 1 - (right - base_column)
                row = (base_row + corner_row + 2 * radius).long()[:, None, None] + rows
                column = (base_column + corner_column + 2 * radius).long()[:, None, None] + columns
                row, column = row.clamp(0, padded.shape[2] - 1), column.clamp(0, padded.shape[3] - 1)
                share = (share_row * share_column * weight)[:, None, None, None]
                smeared += (layers[every, row, column] * share).movedim(-1, 1)
    return smeared


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The centre of every image, enlarged by `factor` and cropped to the original size."""
    height, width = images.shape[-2:]
    crop_h, crop_w = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    crop = images[:, :, top : top + crop_h, left : left + crop_w]
    larger = (max(height, round(crop_h * factor)), max(width, round(crop_w * factor)))
    grown = F.interpolate(crop, size=larger, mode="bilinear", align_corners=True)
    top, left = (larger[0] - height) // 2, (larger[1] - width) // 2
    return grown[:, :, top : top + height, left : left + width]


def zoom(images: Tensor, factors: list[float]) -> Tensor:
    """The mean of every image and its enlargements."""
    total = images.clone()
    for factor in factors:
        total += zoomed(images, factor)
    return total / (len(factors) + 1)


def elastic(images: Tensor, strength: float, sigma: float, shear: float, generator: Generator) -> Tensor:
    """Images under a random affine map (three points moved), then a smooth random displacement; lengths in pixels."""
    count, _, height, width = images.shape
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float32)
    arm = min(height, width) // 3
    corners = torch.stack([centre + arm, torch.stack([centre[0] + arm, centre[1] - arm]), centre - arm])
    moved = corners + (torch.rand(count, 3, 2, generator=generator) * 2 - 1) * shear
    # `solved` maps a position in the result to its source position in the image.
    homogeneous = torch.cat([moved, torch.ones(count, 3, 1)], dim=2)
    solved = torch.linalg.solve(homogeneous, corners.expand(count, 3, 2))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    here = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1).float()
    places = torch.einsum("hwk,nkd->nhwd", here, solved)
    if strength > 0:
        noise = torch.rand(count, 2, height, width, generator=generator) * 2 - 1
        places = places + (gaussian_blur(noise, sigma, truncate=3.0) * strength).movedim(1, -1)
    scale = torch.tensor([height - 1, width - 1], dtype=torch.float32)
    grid = (places / scale * 2 - 1).flip(-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
