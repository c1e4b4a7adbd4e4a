"""Common corruptions: what each kind does to pictures whose answer is known, and that seeds fix them."""

import numpy as np
import pytest
import torch

from rheostat.data import blurs, weather
from rheostat.data.corruptions import CHUNK, CORRUPTIONS, corrupt


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth colour pictures with an edge, (6, 3, 32, 32) uint8."""
    ramp = torch.linspace(40, 200, 32)
    pictures = ramp.view(1, 1, 1, 32).repeat(6, 3, 32, 1)
    pictures[:, 0, 8:20, 10:26] = 230
    pictures[:, 2] = pictures[:, 2].mT
    return pictures.to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_and_grows(name: str, images: torch.Tensor) -> None:
    weak, strong = (corrupt(images, name, severity=severity) for severity in (1, 5))
    assert torch.equal(strong, corrupt(images, name, severity=5))
    assert strong.shape == images.shape
    assert strong.dtype == torch.uint8
    moved = [(c.float() - images.float()).abs().mean().item() for c in (weak, strong)]
    assert moved[1] > 0
    if name != "elastic":  # its first severity is an affine map, larger than the warp of the fifth
        assert moved[0] < moved[1]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_grey_images_and_other_sizes(name: str) -> None:
    grey = (torch.rand(3, 1, 28, 36, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    assert corrupt(grey, name, severity=3).shape == grey.shape


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_images_as_small_as_the_digits(name: str) -> None:
    tiny = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    for severity in range(1, 6):
        assert corrupt(tiny, name, severity=severity).shape == tiny.shape


def test_the_mirror_beyond_a_side_is_periodic() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    expected = np.pad(ramp.numpy(), ((0, 0), (0, 0), (8, 8), (8, 8)), mode="reflect")
    assert np.array_equal(blurs.mirrored(ramp, 8).numpy(), expected)


def test_seeds_and_chunks_have_streams_of_their_own(images: torch.Tensor) -> None:
    assert not torch.equal(corrupt(images, "snow", severity=3), corrupt(images, "snow", severity=3, seed=1))
    many = images[:1].repeat(CHUNK + 1, 1, 1, 1)
    noisy = corrupt(many, "gaussian-noise", severity=1)
    assert not torch.equal(noisy[0], noisy[CHUNK])
    assert not torch.equal(noisy[0], noisy[1])
    first = corrupt(many[:10], "brightness", severity=2)
    assert torch.equal(first, corrupt(many, "brightness", severity=2)[:10])


def test_noise_has_the_moments_that_are_stated() -> None:
    flat = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    gaussian = (corrupt(flat, "gaussian-noise", severity=3).float() - 128) / 255
    assert gaussian.std().item() == pytest.approx(0.08, rel=0.02)
    assert abs(gaussian.mean().item()) < 1e-3
    shot = (corrupt(flat, "shot-noise", severity=5).float() - 128) / 255
    assert shot.std().item() == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.03)
    impulse = corrupt(flat, "impulse-noise", severity=5)
    assert (impulse != 128).float().mean().item() == pytest.approx(0.07, rel=0.05)


def test_brightness_adds_to_the_largest_channel_and_keeps_the_hue() -> None:
    pixel = torch.tensor([102, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 4, 4)
    bright = corrupt(pixel, "brightness", severity=4)[0, :, 0, 0]
    assert bright.tolist() == [153, 76, 0]  # 0.4 + 0.2 = 0.6, and the others in proportion


def test_contrast_shrinks_about_the_mean(images: torch.Tensor) -> None:
    before, after = images.float().std((2, 3)), corrupt(images, "contrast", severity=3).float().std((2, 3))
    assert torch.allclose(after / before, torch.full_like(before, 0.4), atol=0.02)


def test_a_blur_keeps_the_light_and_a_flat_picture() -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1.0
    for blurred in (
        blurs.defocus(point, 1.5, 0.1),
        blurs.gaussian_blur(point, 1.0),
        blurs.motion(point, 6, 2.0, torch.tensor([0.3])),
    ):
        assert blurred.sum().item() == pytest.approx(1.0, abs=1e-4)
        assert blurred.max() < 0.9
    flat = torch.full((2, 3, 16, 16), 0.25)
    assert torch.allclose(blurs.zoom(flat, [1.0, 1.1, 1.2]), flat, atol=1e-6)
    moved = blurs.motion(point, 6, 2.0, torch.zeros(1))  # an angle of 0 smears along the row
    assert torch.nonzero(moved[0, 0])[:, 0].unique().tolist() == [16]


def test_elastic_without_moved_points_is_the_picture() -> None:
    picture = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    same = blurs.elastic(picture, 0.0, 1.0, 0.0, torch.Generator().manual_seed(1))
    assert torch.allclose(same, picture, atol=1e-4)


def test_plasma_is_smoother_where_noise_decays_faster() -> None:
    rough, smooth = (weather.plasma(8, 64, decay, torch.Generator().manual_seed(0)) for decay in (1.5, 3.0))
    steps = [(cloud - cloud.roll(1, 2)).abs().mean().item() for cloud in (rough, smooth)]
    assert steps[1] < 0.6 * steps[0]
    assert rough.amin() == 0
    assert rough.amax() == 1


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("gausian-noise", 1, "gaussian-noise"), ("fog", 6, "1, 2, 3, 4 or 5"), ("fog", 0, "given 0")],
)
def test_mistakes_are_named(name: str, severity: int, message: str, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, severity=severity)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(images.float(), "fog", severity=1)
