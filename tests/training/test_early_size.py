"""Smaller images early in training: when, how small, and which networks refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat
from rheostat import data, nets
from rheostat.attacks import Objective
from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.training.early_size import check_early_size, sized
from rheostat.training.settings import TrainSection

OPTIONS: dict[str, Any] = {
    "eps": 0.2,
    "epochs": 2,
    "batch": 64,
    "select": {"images": 20, "steps": 1, "tail": 1},
    "calibrate_dial": False,
}


def test_images_are_smaller_until_a_share_of_training(tmp_path: Path) -> None:
    train_set, _ = data.load("digits")
    given, held = train_set.only(torch.arange(128)), train_set.only(torch.arange(128, 188))
    seen: list[tuple[int, ...]] = []

    def noted(objective: Objective, images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(tuple(images.shape[1:]))
        return images

    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("dual"))
    rheostat.fit(model, given, held, out=tmp_path, early_size=0.75, early_until=0.6, attack=noted, **OPTIONS)
    assert seen == [(1, 6, 6)] * 3 + [(1, 8, 8)]


def test_pixels_keep_their_range_and_mean() -> None:
    images = (torch.rand(4, 3, 32, 32) > 0.5).float()
    small = sized(images, TrainSection(epochs=1, early_size=0.75), 0.2)
    assert small.shape == (4, 3, 24, 24)
    assert small.min() >= 0
    assert small.max() <= 1
    torch.testing.assert_close(small.mean((2, 3)), images.mean((2, 3)), atol=0.02, rtol=0)
    assert sized(images, TrainSection(epochs=1, early_size=0.75), 0.5) is images
    assert sized(images, TrainSection(epochs=1), 0.0) is images


def test_a_network_of_one_size_refuses_before_training(tmp_path: Path) -> None:
    train_set, _ = data.load("digits")
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    model = rheostat.adopt(plain, "dual", image=(1, 8, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"early_size=0.5: this network does not take images of 4 × 4 pixels"):
        rheostat.fit(model, train_set, train_set, out=tmp_path, early_size=0.5, **OPTIONS)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("compiled", [False, True])
def test_checking_a_network_leaves_it_as_it_was(compiled: bool) -> None:
    model = Tunable(nets.wide_resnet(depth=10, widen=1, dropout=0.5, image=(1, 8, 8)), compose("float"))
    if compiled:
        model.read = torch.compile(model.read, backend="eager")  # type: ignore[method-assign]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    check_early_size(model, TrainSection(epochs=1, early_size=0.75))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
