"""Recipes: every packaged one is valid; every mistake is one line that names the nearest valid key."""

from __future__ import annotations

from pathlib import Path

import pytest

from rheostat import nets
from rheostat.models.tunable import Tunable
from rheostat.runtime.quantities import number
from rheostat.training.recipe import load_recipe, names, parse


@pytest.mark.parametrize("name", names())
def test_packaged_recipes_are_complete_and_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    size = (1, 28, 28) if "mnist" in recipe.data.name else (3, 32, 32)
    if recipe.data.name == "digits":
        size = (1, 8, 8)
    spec = {**recipe.net, "image": size, "classes": 10}
    assert Tunable(nets.build(spec), recipe.stack()) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=5", "unknown key 'train.epoch'; did you mean 'epochs'"),
        ("train.epochs=five", "train.epochs: .*integer.*given 'five'"),
        ("train.epochs=0", "train.epochs: .*greater than or equal to 1.*given 0"),
        ("train.schedule=cosin", "did you mean 'cosine'"),
        ("data.name=fashon-mnist", "did you mean 'fashion-mnist'"),
        ("paper=oatt", "did you mean 'oat'"),
        ("method.dims=3", "did you mean 'dim'"),
        ("net.name=resnett", "did you mean 'resnet'"),
        ("net.classes=3", "comes from the data set"),
        ("attack.eps=-1", "attack.eps"),
        ("attack.eps=8/0", "not a number"),
        ("tran.epochs=3", "unknown key 'tran'; did you mean 'train'"),
        ("epochs", "write section.key=value"),
        ("name.x=1", "is not a section"),
    ],
)
def test_a_mistake_is_named_with_the_nearest(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_recipe("oat-digits", changes=[change])
    assert "\n" not in str(error.value)


def test_files_names_and_missing_keys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'oat-digits'"):
        load_recipe("oat-digit")
    with pytest.raises(ValueError, match="no recipe file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ValueError, match="not TOML"):
        load_recipe(tmp_path / "bad.toml")
    (tmp_path / "half.toml").write_text('name = "x"\npaper = "oat"\n')
    with pytest.raises(ValueError, match="missing key 'net'"):
        load_recipe(tmp_path / "half.toml")


def test_changes_fractions_and_equality() -> None:
    recipe = load_recipe("oat-digits", changes=["train.epochs=5", "attack.eps=8/255"])
    assert recipe.train.epochs == 5
    assert recipe.attack.eps == pytest.approx(8 / 255)
    assert recipe.changed(train={"epochs": 7}).train.epochs == 7
    assert parse(recipe.model_dump(mode="json")) == recipe
    assert number("1/4") == 0.25
