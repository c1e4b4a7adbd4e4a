"""Adversarial images rounded to 8 bits: on the grid, in the ball, in [0, 1], and what is done where that cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rheostat.attacks.grid import on_grid
from rheostat.attacks.pgd import random_start
from rheostat.data import to_pixels


def pixels(seed: int = 0, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return to_pixels(torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8, generator=generator))


def moved_from(images: Tensor, eps: float, norm: str) -> Tensor:
    delta = random_start(images, eps, norm, torch.Generator().manual_seed(1))
    return (images + delta).clamp(0, 1)


def levels(images: Tensor) -> Tensor:
    """How far each pixel lies from a whole multiple of 1/255, in levels."""
    return (images * 255 - (images * 255).round()).abs()


@pytest.mark.parametrize("eps", [0.3 / 255, 1 / 255, 8 / 255, 0.1, 0.3, 1.0])
def test_linf_takes_the_next_value_that_the_ball_admits(eps: float) -> None:
    images = pixels()
    moved = moved_from(images, eps, "linf")
    found = on_grid(moved, images, eps, "linf")
    assert levels(found).max() < 1e-4
    assert (found - images).abs().max() <= eps + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    # By exhaustive search: no value of the grid inside the ball lies nearer to the attack's pixel.
    grid = torch.arange(256) / 255
    admitted = (grid - images[..., None]).abs() <= eps + 1e-6
    away = (grid - moved[..., None]).abs().masked_fill(~admitted, 9.0)
    assert torch.allclose((found - moved).abs(), away.amin(-1), atol=1e-6)


def test_the_edge_of_the_ball_stays_where_it_lies_on_the_grid() -> None:
    images = pixels()
    moved = (images + 8 / 255 * torch.where(images > 0.5, -1.0, 1.0)).clamp(0, 1)
    assert torch.allclose(on_grid(moved, images, 8 / 255, "linf"), moved, atol=1e-6)


def test_a_pixel_that_the_ball_admits_no_value_for_keeps_its_value() -> None:
    images = torch.full((1, 1, 2, 2), 10.5 / 255)
    images[..., 0] = 20 / 255
    moved = images + 0.2 / 255
    found = on_grid(moved, images, 0.3 / 255, "linf")
    assert torch.equal(found[..., 1], moved[..., 1])
    assert torch.allclose(found[..., 0], images[..., 0])
    # With a larger ball the same pixel has a value, though the clean one is off the grid.
    assert levels(on_grid(moved, images, 0.6 / 255, "linf")).max() < 1e-4


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5, 3.0])
def test_l2_is_rounded_inside_the_ball(eps: float) -> None:
    images = pixels()
    moved = moved_from(images, eps, "l2")
    found = on_grid(moved, images, eps, "l2")
    assert levels(found).max() < 1e-4
    assert ((found - images).flatten(1).norm(dim=1) <= eps).all()
    if eps >= 0.5:  # rounding costs part of the perturbation, and not most of it
        kept = ((found - images) * (moved - images)).flatten(1).sum(1) / (moved - images).flatten(1).norm(dim=1) ** 2
        assert (kept > 0.7).all()


def test_an_l2_image_that_no_rounding_fits_comes_back_as_it_is() -> None:
    images = torch.full((2, 1, 4, 4), 10.5 / 255)
    images[1] = 10 / 255
    moved = images + 1e-4
    found = on_grid(moved, images, 1e-3, "l2")
    assert torch.equal(found[0], moved[0])
    assert torch.allclose(found[1], images[1])
