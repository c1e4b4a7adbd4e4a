"""Common corruptions (not adversarial): noise, blur, weather and digital artefacts, at five severities.

These are the 14 corruptions of Hendrycks & Dietterich (Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019) that need no photographs (frost does), with the severities of CIFAR-10-C. They are computed
from the test images with fixed seeds. Results are close to those on the published files but not equal: blurs and
interpolation are torch's, and motion blur is a straight smear.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rheostat.data import blurs, weather
from rheostat.runtime.choices import check_choice
from rheostat.runtime.seeding import seed_of

Corruption = Callable[[Tensor, Any, Generator], Tensor]


def _gaussian(images: Tensor, scale: float, generator: Generator) -> Tensor:
    return images + scale * torch.randn(images.shape, generator=generator)


def _shot(images: Tensor, photons: float, generator: Generator) -> Tensor:
    return torch.poisson(images * photons, generator=generator) / photons


def _impulse(images: Tensor, share: float, generator: Generator) -> Tensor:
    drawn = torch.rand(images.shape, generator=generator)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, images))


def _defocus(images: Tensor, of: tuple[float, float], _: Generator) -> Tensor:
    return blurs.defocus(images, *of)


def _glass(images: Tensor, of: tuple[float, int, int], generator: Generator) -> Tensor:
    return blurs.glass(images, *of, generator)


def _motion(images: Tensor, of: tuple[int, float], generator: Generator) -> Tensor:
    angles = (torch.rand(len(images), generator=generator) * 90 - 45) * math.pi / 180
    return blurs.motion(images, *of, angles)


def _zoom(images: Tensor, largest: int, _: Generator) -> Tensor:
    return blurs.zoom(images, [1 + 0.01 * i for i in range(largest)])


def _fog(images: Tensor, of: tuple[float, float], generator: Generator) -> Tensor:
    return weather.fog(images, *of, generator)


def _snow(images: Tensor, of: tuple[float, float, float, float, int, float, float], generator: Generator) -> Tensor:
    mean, std, zoom, threshold, radius, sigma, keep = of
    return weather.snow(images, mean, std, zoom, threshold, (radius, sigma), keep, generator)


def _brightness(images: Tensor, more: float, _: Generator) -> Tensor:
    # V of HSV is the largest channel; adding to it at equal hue and saturation scales the pixel.
    value = images.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-8), brighter)


def _contrast(images: Tensor, factor: float, _: Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def _elastic(images: Tensor, of: tuple[float, float, float], generator: Generator) -> Tensor:
    side = min(images.shape[-2:])
    strength, sigma, shear = (side * value for value in of)
    return blurs.elastic(images, strength, sigma, shear, generator)


def _through_pillow(images: Tensor, change: Callable[[Any], Any]) -> Tensor:
    from PIL import Image

    grey = images.shape[1] == 1
    arrays = (images * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    changed = [np.asarray(change(Image.fromarray(a[..., 0] if grey else a))) for a in arrays]
    stacked = torch.from_numpy(np.stack(changed)).float() / 255
    return stacked[:, None] if grey else stacked.movedim(-1, 1)


def _pixelate(images: Tensor, share: float, _: Generator) -> Tensor:
    from PIL import Image

    def coarse(picture: Any) -> Any:
        small = tuple(max(1, int(side * share)) for side in picture.size)
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _through_pillow(images, coarse)


def _jpeg(images: Tensor, quality: int, _: Generator) -> Tensor:
    from PIL import Image

    def compressed(picture: Any) -> Any:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _through_pillow(images, compressed)


CORRUPTIONS: dict[str, tuple[Corruption, Sequence[Any]]] = {
    "gaussian-noise": (_gaussian, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot-noise": (_shot, (500, 250, 100, 75, 50)),
    "impulse-noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus-blur": (_defocus, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass-blur": (_glass, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion-blur": (_motion, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom-blur": (_zoom, (6, 11, 16, 21, 26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic": (_elastic, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
"""Name → (function, its strength at severities 1 to 5)."""

CHUNK = 500
"""Images corrupted at once. Changing it changes the images, because each chunk has its own random stream."""


def corrupt(images: Tensor, name: str, *, severity: int, seed: int = 0) -> Tensor:
    """Images (N, C, H, W) uint8 under one corruption, again uint8; the same seed gives the same images.

    `severity` is 1 to 5. Raises ValueError for another corruption, severity or type of images.
    """
    check_choice("corrupt", "corruption", name, list(CORRUPTIONS))
    if severity not in range(1, 6):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, given {severity!r}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W) uint8, given {tuple(images.shape)} {images.dtype}")
    change, strengths = CORRUPTIONS[name]
    done = []
    for number, chunk in enumerate(images.cpu().split(CHUNK)):
        generator = Generator().manual_seed(seed_of(seed, "corruption", name, severity, number))
        changed = change(chunk.float() / 255, strengths[severity - 1], generator)
        done.append((changed.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(done) if done else images.cpu().clone()
