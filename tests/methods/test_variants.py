"""Presets of the published recipes: which there are, what they set, and what they cannot be combined with."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.methods import COMPOSITIONS, compose
from rheostat.methods.base import settings_of
from rheostat.methods.composition import parse_method
from rheostat.methods.noise import WeightNoise, deviation
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, seats
from rheostat.nn.masking import Masking
from rheostat.training.recipe import load_recipe, names

OURS = ("dual", "rdi-slim-dual")
"""Compositions that no paper has."""


@pytest.mark.parametrize("name", ["oat", "oats", "float", "float-slim", "floats", "smart", "rdi"])
def test_a_papers_variant_is_a_composition_of_options_that_rows_name(name: str) -> None:
    assert compose(name, variant="ours") == compose(name)
    paper = compose(name, variant="paper")
    composition = COMPOSITIONS.get(name)
    assert composition.paper
    named = {key.partition(".")[2]: value for key, value in settings_of(paper).items()}
    defaults = settings_of(compose(name))
    assert all(named.get(k, v) == v for k, v in composition.paper.items())
    assert set(named) - {k.partition(".")[2] for k in defaults} <= set(composition.paper)
    assert parse_method(repr(paper)) == paper
    # Options that are given are taken in either variant.
    option, value = next(iter(settings_of(compose(name, variant="paper")).items()))
    assert option.partition(".")[2] in composition.paper
    assert value is not None


def test_variants_that_are_not_there_are_named() -> None:
    for name in OURS:
        with pytest.raises(ValueError, match=f"{name} has no variant 'paper'.*allowed: ours"):
            compose(name, variant="paper")
    with pytest.raises(ValueError, match=r"float: no variant 'papre'; did you mean 'paper'"):
        compose("float", variant="papre")
    with pytest.raises(ValueError, match="did you mean 'variant'"):
        compose("float", varient="paper")
    assert compose("float", variant="paper", draw="frozen").part(type(compose("float").methods[1])).draw == "frozen"


def test_recipes_of_the_papers_settings_use_the_papers_variants() -> None:
    for name in names():
        recipe = load_recipe(name)
        if name.endswith(("-fashion", "-digits", "-small")) or recipe.paper in ("dual", "smart"):
            continue
        assert recipe.method["variant"] == "paper", name
        if recipe.paper.startswith("float"):
            assert recipe.net["initialisation"] == "default"
            assert recipe.train.rate_by == "epoch"
    assert "reconstruction" in load_recipe("smart-cifar10").about


def test_attacks_between_the_passes_and_awp_are_refused_together() -> None:
    changes = ["paper=float", 'method={"variant": "paper"}', "train.awp=0.005"]
    with pytest.raises(ValueError, match=r"train\.awp perturbs the weights after all attacks"):
        load_recipe("oat-digits", changes=changes)
    load_recipe("oat-digits", changes=["paper=float", "method={}", "train.awp=0.005"])


def test_first_stages_may_be_dense_and_without_noise() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("floats", dense_stages=2, quiet_stages=1))
    kinds = [{type(t) for t in conv.transforms} for conv in seats(model.net, Conv)]
    assert kinds[0] == set()  # the stem
    assert kinds[1] == kinds[2] == {WeightNoise}  # the first stage
    assert all(kind == {WeightNoise, Masking} for kind in kinds[3:])
    for option in ("dense_stages", "quiet_stages"):
        with pytest.raises(ValueError, match=rf"{option} must be below the 4 stages of this network, given 4"):
            Tunable(nets.resnet(depth=8, base_width=4), compose("floats", **{option: 4}))


def test_dense_noise_is_not_for_channels() -> None:
    with pytest.raises(ValueError, match="dropped channels take no noise"):
        Tunable(nets.resnet(depth=8, base_width=4), compose("floats", variant="paper", structure="channel"))


@pytest.mark.parametrize("build", [nets.resnet, nets.wide_resnet])
def test_the_default_initialisation_is_narrower_by_the_root_of_six(build) -> None:
    depth = {"resnet": 8, "wide_resnet": 10}[build.__name__]
    options = {"depth": depth, "base_width": 32, **({"widen": 1} if depth == 10 else {})}
    torch.manual_seed(0)
    he, plain = (list(seats(build(**options, initialisation=i), Conv)) for i in ("he", "default"))
    same = [(a, b) for a, b in zip(he, plain, strict=True) if a.in_channels == a.out_channels]
    assert same
    for a, b in same:
        assert float((a.weight.std() / b.weight.std()).detach()) == pytest.approx(6**0.5, abs=0.1)
    with pytest.raises(ValueError, match="did you mean 'default'"):
        build(**options, initialisation="defualt")


def test_the_deviation_may_be_the_unbiased_one() -> None:
    weight, mask = torch.randn(5, 4), (torch.rand(5, 4) < 0.5).float()
    assert torch.equal(deviation(weight, None, correction=1), weight.std())
    assert torch.allclose(deviation(weight, mask, correction=1), weight[mask.bool()].std())
