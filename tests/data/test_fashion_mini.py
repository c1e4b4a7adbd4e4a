"""The data set that comes with the package: what it holds, and that its licence comes along."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

from rheostat import data
from rheostat.training.recipe import load_recipe


def test_it_holds_what_it_says_without_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RHEOSTAT_DATA", str(tmp_path / "nothing"))
    train, test = data.load("fashion-mini")
    assert (len(train), len(test), train.image) == (3000, 500, (1, 28, 28))
    assert train.labels.bincount().tolist() == [300] * 10
    assert test.labels.bincount().tolist() == [50] * 10
    assert test.labels[:10].tolist() == list(range(10)), "the classes take turns"
    assert train.fingerprint == "39a5571a8f72a7e7"
    assert test.fingerprint == "ac92367525a77c5c"


def test_no_image_is_in_both_halves() -> None:
    train, test = data.load("fashion-mini")
    kept = {image.numpy().tobytes() for image in train.images}
    assert not [i for i, image in enumerate(test.images) if image.numpy().tobytes() in kept]


@pytest.mark.data
def test_the_images_are_fashion_mnists(real_data) -> None:
    for mini, whole in zip(data.load("fashion-mini"), data.load("fashion-mnist", folder=real_data), strict=True):
        known = {image.numpy().tobytes(): int(label) for image, label in zip(whole.images, whole.labels, strict=True)}
        found = torch.tensor([known[image.numpy().tobytes()] for image in mini.images])
        assert torch.equal(found, mini.labels)
        assert mini.classes == whole.classes


def test_it_is_small_and_its_licence_comes_along() -> None:
    folder = resources.files("rheostat.data") / "packed"
    assert len((folder / "fashion-mini.png").read_bytes()) <= 1_500_000
    notice = (folder / "fashion-mini.LICENSE").read_text()
    assert "Copyright © 2017 Zalando SE" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_the_demos_recipe_uses_it() -> None:
    assert load_recipe("dual-fashion-mini").data.name == "fashion-mini"
