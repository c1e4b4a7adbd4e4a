"""Recipes: every packaged one is valid; every mistake is one line that names the nearest valid key."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from rheostat import nets
from rheostat.models.tunable import Tunable
from rheostat.runtime.choices import NoEffectWarning
from rheostat.runtime.quantities import number
from rheostat.training.recipe import load_recipe, names, parse_recipe


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
        ("data.name=digit", "data.name: no data set 'digit'; did you mean 'digits'"),
        ("attack.kind=pdg", "attack.kind: no attack to train with 'pdg'; did you mean 'pgd'"),
        ("attack.kind=square", "attack.kind: no attack to train with 'square'"),
        ("attack.loss=cee", "attack.loss: did you mean 'ce'.* allowed: ce, dlr, margin"),
        ("net.dept=8", "net: resnet has no option 'dept'; did you mean 'depth'"),
        ("net.depth=21", "net: resnet has no depth 21"),
        ("net.base_width=0", "net: resnet: base_width must be positive"),
        ("select.robustness=[0,1.5]", r"select.robustness: .* in \[0, 1\]"),
        ("select.robustness=[]", "select.robustness: .*at least one"),
    ],
)
def test_a_mistake_is_named_with_the_nearest(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_recipe("oat-digits", changes=[change])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rdi-mnist", ["policy.rule=budget"], "policy.rule 'budget' needs policy.macs"),
        ("rdi-mnist", ["policy.rule=accuracy", "policy.macs=1e6"], "policy.rule 'accuracy' needs policy.accuracy"),
        ("rdi-mnist", ["train.trades=6"], "one head only; this composition has exits"),
        ("pgd-at-fashion", ["calibrate_dial=true"], "calibrate_dial: pgd-at has no dial 'robustness'"),
        ("oat-digits", ['net={"name":"small_cnn","padded":false}'], "at least 16×16"),
        ("oat-fashion", ['net={"name":"small_cnn","padded":false}'], "norms; this one has none"),
        ("rdi-mnist", ["method.positions=[99]"], "no block 99"),
        ("oat-digits", ["attack.kind=n-fgsm", "attack.norm=l2"], "L∞"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_when_it_is_loaded(
    name: str, changes: list[str], message: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        with pytest.raises(ValueError, match=message):
            load_recipe(name, changes=changes)


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("oat-digits", ["attack.kind=n-fgsm", "attack.steps=3"], "attack.steps has no effect, because n-fgsm"),
        ("oat-digits", ["attack.kind=n-fgsm", "attack.steps=7", "attack.restarts=2"], "attack.restarts"),
        ("oat-digits", ["policy.macs=1e6"], "policy.macs has no effect, because oat has no exits"),
        ("rdi-mnist", ["policy.macs=1e6"], "policy.macs has no effect, because the rule is 'equal-shares'"),
        ("pgd-at-fashion", ["select.robustness=[0,1]"], "select.robustness has no effect"),
        ("oat-digits", ["train.awp_from=0.5"], "train.awp_from has no effect, because train.awp is 0"),
        ("oat-digits", ["train.early_until=0.7"], "train.early_until has no effect, because train.early_size is 1"),
        ("oat-digits", ["train.gamma=0.5"], "train.gamma has no effect, because train.schedule is 'one-cycle'"),
        ("oat-digits", ["data.augment=none", "data.padding=3"], "data.padding has no effect"),
    ],
)
def test_a_setting_without_effect_says_so(name: str, changes: list[str], key: str) -> None:
    with pytest.warns(NoEffectWarning, match=key):
        load_recipe(name, changes=changes)


def test_validation_draws_nothing_and_makes_no_weights() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    recipe = load_recipe("oat-digits")
    assert torch.equal(before, torch.get_rng_state())
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


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
    with pytest.raises(ValueError, match=r"trian.*did you mean 'train'"):
        recipe.changed(trian={"epochs": 7})
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
    assert number("1/4") == 0.25
