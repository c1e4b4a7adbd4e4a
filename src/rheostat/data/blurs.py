"""Blurs of whole batches: out of focus, through glass, in motion, while zooming; and elastic deformation.

Images are float (N, C, H, W) in [0, 1]; each image has random values of its own. What `corruptions` is built from.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """Normalised weights (2·radius + 1,) of a Gaussian."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def gaussian_blur(images: Tensor, sigma: float, *, truncate: float = 4.0) -> Tensor:
    """Every channel smoothed, edges repeated outwards."""
    radius = max(1, int(truncate * sigma + 0.5))
    weights = gaussian_kernel(sigma, radius).to(images)
    channels = images.shape[1]
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    padded = F.conv2d(padded, weights.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(padded, weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)


def mirrored(images: Tensor, size: int) -> Tensor:
    """Images with `size` pixels more at every edge, reflected there: as often as small images need."""
    down = across = size
    while down or across:  # torch reflects less than a side at once; whole sides keep the reflection periodic
        some, more = min(down, images.shape[2] - 1), min(across, images.shape[3] - 1)
        if (down and not some) or (across and not more):
            raise ValueError(f"images of {images.shape[2]} × {images.shape[3]} have no pixel to reflect")
        images = F.pad(images, (more, more, some, some), mode="reflect")
        down, across = down - some, across - more
    return images


def defocus(images: Tensor, radius: float, softness: float) -> Tensor:
    """Blurred by a disk of `radius` pixels whose edge a 3×3 Gaussian of `softness` smooths."""
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
    """Smoothed, pixels exchanged with neighbours up to `reach` away, smoothed again."""
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
    """Smeared one way along a line, image i at `angles[i]` radians, by 2·radius + 1 weights of a falling Gaussian."""
    count, _, height, width = images.shape
    steps = torch.arange(2 * radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(images, (radius * 2,) * 4, mode="replicate")
    smeared = torch.zeros_like(images)
    # A shift by a fraction of a pixel is the mean of the four shifts around it.
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
    """The middle of every image, `factor` times as large, at the same size."""
    height, width = images.shape[-2:]
    crop_h, crop_w = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    crop = images[:, :, top : top + crop_h, left : left + crop_w]
    larger = (max(height, round(crop_h * factor)), max(width, round(crop_w * factor)))
    grown = F.interpolate(crop, size=larger, mode="bilinear", align_corners=True)
    top, left = (larger[0] - height) // 2, (larger[1] - width) // 2
    return grown[:, :, top : top + height, left : left + width]


def zoom(images: Tensor, factors: list[float]) -> Tensor:
    """The mean of every image and of its enlargements."""
    total = images.clone()
    for factor in factors:
        total += zoomed(images, factor)
    return total / (len(factors) + 1)


def elastic(images: Tensor, strength: float, sigma: float, shear: float, generator: Generator) -> Tensor:
    """An affine map of three moved points, then a smooth random displacement; lengths in pixels."""
    count, _, height, width = images.shape
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float32)
    arm = min(height, width) // 3
    corners = torch.stack([centre + arm, torch.stack([centre[0] + arm, centre[1] - arm]), centre - arm])
    moved = corners + (torch.rand(count, 3, 2, generator=generator) * 2 - 1) * shear
    # `solved` takes a place in the result to the place in the image that is seen there.
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
