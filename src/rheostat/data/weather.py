"""Fog and snow over whole batches; images are float (N, C, H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from rheostat.data.blurs import motion, zoomed


def plasma(count: int, size: int, decay: float, generator: Generator) -> Tensor:
    """Cloud-like maps (count, size, size) in [0, 1], by midpoint displacement with noise.

    The amplitude of the noise shrinks by a factor `decay` per scale, so a higher `decay` gives smoother
    clouds. `size` is a power of two; the maps wrap around at the edges.
    """
    cloud = torch.zeros(count, 1, 1)
    amplitude = 1.0
    while cloud.shape[-1] < size:
        side = cloud.shape[-1]
        grown = torch.zeros(count, 2 * side, 2 * side)
        grown[:, ::2, ::2] = cloud
        # The middle of each square, then the middle of each edge, from the neighbours computed so far.
        square = cloud + cloud.roll(-1, 1) + cloud.roll(-1, 2) + cloud.roll((-1, -1), (1, 2))
        grown[:, 1::2, 1::2] = square / 4 + amplitude * _noise(cloud.shape, generator)
        middle = grown[:, 1::2, 1::2]
        across = cloud + cloud.roll(-1, 2) + middle + middle.roll(1, 1)
        down = cloud + cloud.roll(-1, 1) + middle + middle.roll(1, 2)
        grown[:, ::2, 1::2] = across / 4 + amplitude * _noise(cloud.shape, generator)
        grown[:, 1::2, ::2] = down / 4 + amplitude * _noise(cloud.shape, generator)
        cloud, amplitude = grown, amplitude / decay
    low = cloud.amin((1, 2), keepdim=True)
    return (cloud - low) / (cloud.amax((1, 2), keepdim=True) - low)


def _noise(shape: torch.Size, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1


def fog(images: Tensor, amount: float, decay: float, generator: Generator) -> Tensor:
    """A cloud added to every image; the sum is rescaled to the maximum brightness of the image."""
    count, _, height, width = images.shape
    size = 2 ** math.ceil(math.log2(max(height, width)))
    cloud = plasma(count, size, decay, generator)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * cloud) * brightest / (brightest + amount)


def snow(
    images: Tensor,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    smear: tuple[int, float],
    keep: float,
    generator: Generator,
) -> Tensor:
    """Slanted snowflakes over a paler image; `smear` is (radius, sigma) of their motion blur, in pixels."""
    count, channels, height, width = images.shape
    flakes = torch.randn(count, 1, height, width, generator=generator) * std + mean
    if zoom > 1:
        flakes = zoomed(flakes, zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    angles = (torch.rand(count, generator=generator) * 90 - 135) * math.pi / 180
    flakes = motion(flakes, smear[0], smear[1], angles)
    weights = torch.tensor([0.299, 0.587, 0.114]) if channels == 3 else torch.full((channels,), 1 / channels)
    grey = (images * weights.view(1, -1, 1, 1)).sum(1, keepdim=True)
    pale = keep * images + (1 - keep) * torch.maximum(images, grey * 1.5 + 0.5)
    return pale + flakes + flakes.rot90(2, (2, 3))
