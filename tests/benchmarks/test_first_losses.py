"""A model that ships can be trained again: the first steps of its recipe give the losses that were kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rheostat.models import zoo
from rheostat.training.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "benchmarks" / "zoo"


@pytest.fixture(scope="module")
def repeating() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        import repeating as found
    finally:
        sys.path.remove(str(FOLDER))
    return found


@pytest.fixture(scope="module")
def some(repeating: Any) -> list[float]:
    """The first eight losses of the packaged model's recipe, as this machine computes them."""
    return list(repeating.first_losses(load_recipe("oat-digits"), steps=8))


def test_the_packaged_model_repeats_its_first_steps(repeating, some) -> None:
    kept = repeating.read()["oat-digits"]
    assert len(kept["losses"]) == repeating.STEPS
    assert len(some) == 8
    assert repeating.difference(some, kept["losses"]) == ""


def test_the_same_processor_repeats_them_exactly(repeating, some) -> None:
    assert repeating.first_losses(load_recipe("oat-digits"), steps=3) == some[:3]


@pytest.mark.parametrize("change", ["train.seed=1", "attack.eps=0.19", "train.lr=0.6"])
def test_another_training_is_noticed(repeating, some, change: str) -> None:
    """Another seed or radius in the first loss; another learning rate once it has made a difference."""
    other = repeating.first_losses(load_recipe("oat-digits", changes=[change]), steps=8)
    assert repeating.difference(other, some).startswith("step ")


def test_a_difference_is_of_the_loss_and_named(repeating) -> None:
    assert repeating.difference([2.0, 1.02], [2.0, 1.0]) == ""
    assert "step 2: loss 1.040000, before 1.000000" in repeating.difference([2.0, 1.04], [2.0, 1.0])
    assert "step 1" in repeating.difference([2.0001], [2.0])
    assert "step 1" in repeating.difference([float("nan")], [2.0])
    assert repeating.difference([2.001], [2.0], precision="bf16") == ""
    assert "step 1" in repeating.difference([2.003], [2.0], precision="bf16")


def test_every_model_that_ships_has_its_losses(repeating) -> None:
    for name in zoo.names():
        kept = repeating.read()[name]
        assert kept["precision"] == load_recipe(name).device.precision
        assert kept["threads"] == 1
        assert len(kept["losses"]) == repeating.STEPS


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", zoo.names())
def test_a_model_that_ships_repeats_its_first_steps(repeating, request: pytest.FixtureRequest, name: str) -> None:
    """On any copy of the data: a few images that are not bit for bit the published ones move no loss by as much."""
    recipe = load_recipe(name, changes=["data.verify=false"])
    kept = repeating.read()[name]
    assert recipe.device.precision == kept["precision"] in repeating.FIRST
    folder = request.getfixturevalue("real_cifar10" if recipe.data.name == "cifar10" else "real_data")
    found = repeating.first_losses(recipe, data_dir=folder)
    assert repeating.difference(found, kept["losses"], precision=kept["precision"]) == ""
