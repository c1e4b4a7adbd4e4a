"""Exits: heads, costs, real early exit, the dials exit and depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rheostat import data, nets
from rheostat.attacks import multi_exit as forms
from rheostat.calibration.exit_policy import anytime, fit_policy, stacked
from rheostat.methods import Dual, Exits, Experts, Stack
from rheostat.methods.composition import compose
from rheostat.methods.exits import ExitCommand
from rheostat.models.costs import exit_costs, observe
from rheostat.models.folding import FoldedExits, fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from support import make

LIVE = Point(exit=1.0)


def varied(net: str = "resnet-8", paper: str = "rdi", count: int = 64) -> tuple[Tunable, data.Dataset]:
    """A model with moved weights, its thresholds fitted by equal shares, and the images they fit."""
    model = make(paper, net)
    images = torch.randint(0, 256, (count, *model.net.image), dtype=torch.uint8)
    fit = data.Dataset("made", images, torch.arange(count) % 10, tuple("0123456789"), "calibrate-fit")
    fit_policy(model, fit)
    return model, fit


@pytest.mark.parametrize(
    ("net", "parameters", "honest", "papers"),
    [
        (
            lambda: nets.resnet(depth=38),
            0.692,
            (16.8, 37.7, 51.3, 65.9, 78.4, 91.9, 96.4),
            (16.8, 30.3, 36.5, 50.0, 61.4, 74.9, 79.4),
        ),
        (lambda: nets.small_cnn(padded=False), 0.837, (0.818, 7.639, 9.889), (0.818, 7.006, 9.256)),
    ],
)
def test_paper_heads_have_the_papers_counts(net, parameters, honest, papers) -> None:
    model = Tunable(net(), compose("rdi", heads="paper"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.0006)
    costs = exit_costs(model)
    digits = 3 if honest[0] < 1 else 1
    assert [round(c / 2**20, digits) for c in costs.convolutions] == list(honest)
    assert [round(c / 2**20, digits) for c in costs.convolutions_alone] == list(papers)


@pytest.mark.parametrize("image", [(3, 16, 128), (3, 256, 8)])
def test_light_heads_take_wide_and_tall_images(image: tuple[int, int, int]) -> None:
    """They pooled until the longer side was small, and the shorter one had no pixel left."""
    model = Tunable(nets.resnet(depth=20, base_width=4, image=image), compose("rdi", heads="light"))
    outputs = model.read(torch.rand(2, *image), model.resolve(Point(), torch.zeros(2)).with_(ExitCommand()))
    assert all(logits.shape == (2, 10) and logits.isfinite().all() for logits in outputs.exits)


def test_light_heads_are_cheaper_than_the_papers() -> None:
    light, paper = (exit_costs(Tunable(nets.resnet(depth=38), compose("rdi", heads=h))) for h in ("light", "paper"))
    assert all(a <= b for a, b in zip(light.macs, paper.macs, strict=True))
    assert light.macs[-1] < 1.02 * light.alone[-1]
    assert paper.macs[-1] > 1.2 * paper.alone[-1]


def test_leaving_at_k_has_paid_for_heads_1_to_k() -> None:
    model = make("rdi", "resnet-18")
    costs = exit_costs(model)
    plain = [observe(model, model.net.image, Point(depth=k + 1.0)).macs for k in range(len(costs.macs))]
    assert list(costs.alone) == plain
    gap = [run - alone for run, alone in zip(costs.macs, costs.alone, strict=True)]
    assert gap[0] == 0
    assert gap == sorted(gap)
    assert gap[-1] > gap[1] > 0


@pytest.mark.parametrize("net", ["small_cnn", "resnet-8", "resnet-18", "wide_resnet", "mobilenet_v2"])
@pytest.mark.parametrize("measure", forms.MEASURES)
def test_real_early_exit_is_the_simulated_policy_row_by_row(net: str, measure: str) -> None:
    model, fit = varied(net)
    method = replace(model.method.methods[0], measure=measure)
    model.method = model.method.replaced(model.method.methods[0], method)
    fit_policy(model, fit)
    x = data.to_pixels(fit.images)
    stack = stacked(model, fit, Point())
    thresholds = model.net.get_buffer("thresholds")
    exits = forms.taken(forms.uncertainty(stack[:, :-1], measure), thresholds)
    assert len(exits.unique()) == stack.shape[1]
    found = model.read(x, model.resolve(LIVE, x))
    assert torch.equal(found.taken, exits)
    assert torch.allclose(found.logits, stack[torch.arange(len(x)), exits], atol=1e-4)


@pytest.mark.parametrize(
    ("net", "paper", "at"),
    [
        ("resnet-8", "rdi", LIVE),
        ("resnet-18", "rdi", LIVE),
        ("resnet-18", "rdi", Point(exit=1.0, depth=3.0)),
        ("resnet-18", "rdi", Point(exit=1.0, depth=1.0)),
        ("mobilenet_v2", "rdi", LIVE),
        ("resnet-8", "rdi-slim-dual", Point(exit=1.0, width=0.5, robustness=0.5)),
    ],
)
def test_folded_stages_leave_as_the_model_does(net: str, paper: str, at: Point) -> None:
    """New images, so that no uncertainty equals a threshold; compaction works in place without gradients."""
    model, fit = varied(net, paper)
    fit_policy(model, fit, at=at.replace(exit=0.0))
    images = torch.rand(48, *model.net.image, generator=torch.Generator().manual_seed(5))
    before = images.clone()
    folded = fold(model, at)
    assert isinstance(folded, FoldedExits)
    assert not {type(m).__name__ for m in folded.modules()} & {"Conv", "Dense", "Norm"}
    with torch.no_grad():
        expected = model.read(images, model.resolve(at, images))
        assert len(expected.taken.unique()) > 1 or at.numbers().get("depth") == 1.0
        for layout in (torch.contiguous_format, torch.channels_last):
            module = folded.to(memory_format=layout)
            for _ in range(2):
                assert torch.allclose(module(images), expected.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(images, before)


def test_exits_of_two_experts_fold_at_both_ends() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), Stack(Dual(), Exits(), Experts()))
    model.method.finish(model.net)
    model.net.get_buffer("thresholds").fill_(2.2)
    images = torch.rand(16, 1, 8, 8)
    for level in (0.0, 1.0):
        at = Point(robustness=level, exit=1.0)
        with torch.no_grad():
            assert torch.allclose(fold(model, at)(images), model(images, at), atol=1e-4, rtol=1e-4)


def test_a_policy_that_is_not_fitted_does_not_fold() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("rdi"))
    with pytest.raises(ValueError, match="not fitted yet"):
        fold(model, LIVE)
    assert fold(model, Point(exit=1.0, depth=1.0))(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_dial_runs_from_the_last_exit_to_the_fitted_policy() -> None:
    model, fit = varied()
    x = data.to_pixels(fit.images)
    last = len(model.net.exits)
    means = []
    for scale in (0.2, 0.6, 0.8, 1.0):
        taken = model.read(x, model.resolve(Point(exit=scale), x)).taken
        means.append(float(taken.double().mean()))
    assert means == sorted(means, reverse=True)
    assert means[0] == last
    assert torch.equal(model(x, Point(exit=0.0)), model(x))
    assert model.read(x, model.resolve(Point(exit=1.0, depth=2.0), x)).taken.max() == 1


def test_depth_is_a_static_prefix() -> None:
    model, fit = varied()
    x = data.to_pixels(fit.images)
    stack = stacked(model, fit, Point())
    for k in range(stack.shape[1]):
        assert torch.allclose(model(x, Point(depth=k + 1.0)), stack[:, k], atol=1e-5)
    with pytest.raises(ValueError, match="no position 9"):
        model(x, Point(depth=9.0))


def test_anytime_yields_every_exit_and_nothing_runs_ahead() -> None:
    model, fit = varied()
    x = data.to_pixels(fit.images)
    assert torch.allclose(torch.stack(list(anytime(model, x)), 1), stacked(model, fit, Point()), atol=1e-5)
    calls: list[int] = []
    for number, block in enumerate(model.net.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    next(anytime(model, x))
    assert calls == list(range(model.method.methods[0].positions[0] + 1))


@pytest.mark.parametrize("folded", [False, True])
def test_a_batch_of_no_images_leaves_by_the_last_exit(folded: bool) -> None:
    model, fit = varied()
    x = torch.rand(0, *fit.image)
    found = fold(model, LIVE)(x) if folded else model(x, LIVE)
    assert found.shape == model(x).shape == (0, 10)


@pytest.mark.parametrize("heads", ["paper", "light"])
def test_a_network_of_ones_own_takes_exits(heads: str) -> None:
    net = nets.resnet(depth=8, base_width=4, image=(3, 8, 8))
    own = type(net)(list(net.blocks), net.classifier, image=net.image, classes=10, normalise=net.normalise)
    assert Tunable(own, Stack(Exits(heads=heads)))(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    net.spec["activation"] = "unknown"
    assert Tunable(net, Stack(Exits(heads=heads)))(torch.rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("heads", ["paper", "light"])
def test_exits_have_the_activation_of_their_network(heads: str) -> None:
    net = nets.resnet(depth=8, base_width=4, image=(3, 32, 32), activation="silu")
    model = Tunable(net, Stack(Exits(positions=(0, 1), heads=heads)))
    found = [m.activation for m in model.net.exits.modules() if getattr(m, "activation", None) is not None]
    assert found
    assert all(activation is torch.nn.functional.silu for activation in found)
