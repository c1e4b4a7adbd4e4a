"""Noise on the weights: its size, its draws, its options."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.methods.noise import NoiseLevel, WeightNoise, deviation, strengths
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from support import images_for, make


@pytest.mark.parametrize(
    ("net", "millions", "alphas"),
    [
        (lambda: nets.resnet(depth=34), 21.299, 36),
        (lambda: nets.wide_resnet(depth=16, widen=8), 10.969, 16),
        (lambda: nets.wide_resnet(depth=40, widen=2), 2.249, 40),
    ],
)
def test_float_parameters_are_the_papers(net, millions: float, alphas: int) -> None:
    model = Tunable(net(), compose("float"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert strengths(model) == [0.25] * alphas


def test_the_noise_is_lambda_alpha_sigma_eta() -> None:
    torch.manual_seed(0)
    conv = Conv(3, 4, padding=1)
    noise = WeightNoise(conv.weight, alpha="free", initial=0.25, draw="frozen")
    conv.transforms.append(noise)
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("float"))
    x = torch.rand(3, 3, 5, 5)
    weight = conv.weight
    for level in (0.0, 0.4, 1.0):
        at = model.resolve(Point(robustness=level), x)
        expected = weight + level * 0.25 * weight.std(correction=0) * noise.eta
        wanted = torch.nn.functional.conv2d(x, expected, padding=1)
        assert torch.allclose(conv(x, at), wanted, atol=1e-6)
    levels = torch.tensor([0.0, 0.4, 1.0])
    mixed = conv(x, model.resolve(Point(robustness=levels), x))
    for row, level in enumerate(levels.tolist()):
        alone = conv(x[row : row + 1], model.resolve(Point(robustness=level), x[:1]))
        assert torch.allclose(mixed[row], alone[0], atol=1e-5)
    mask = (torch.rand(weight.shape) < 0.5).float()
    assert torch.allclose(deviation(weight, mask), weight[mask.bool()].std(correction=0))


def test_frozen_points_are_deterministic_and_sampled_ones_say_that_they_are_not() -> None:
    frozen, sampled = (
        Tunable(nets.resnet(depth=8, base_width=4), compose("float", draw=d)) for d in ("frozen", "sampled")
    )
    x = torch.rand(4, 3, 32, 32)
    point = Point(robustness=1.0)
    assert torch.equal(frozen(x, point), frozen(x, point))
    assert not torch.equal(sampled(x, point), sampled(x, point))
    assert torch.equal(sampled(x), sampled(x))  # λ = 0 draws nothing
    assert not frozen.method.randomised(point)
    assert sampled.method.randomised(point)
    assert not sampled.method.randomised(Point(robustness=0.0))
    assert len(frozen.method.undecayed(frozen.net)) == 9  # no decay on α


def test_training_samples_noise_and_an_attack_draws_anew_each_pass() -> None:
    model = make("float", "resnet-8")
    x = images_for(model)
    y = torch.zeros(6, dtype=torch.long)
    objective = model.objective(
        y, Point(robustness=1.0), phase=Phase.ATTACK, generator=torch.Generator().manual_seed(0)
    )
    assert not torch.equal(objective(x), objective(x))
    clean = model.objective(y, Point(robustness=0.0), phase=Phase.ATTACK)
    assert torch.equal(clean(x), clean(x))


def test_options_of_noise() -> None:
    soft = Tunable(nets.resnet(depth=8, base_width=4), compose("float", alpha="softplus"))
    assert strengths(soft) == [pytest.approx(0.25, abs=1e-5)] * 9
    fixed = Tunable(nets.resnet(depth=8, base_width=4), compose("float", alpha="fixed"))
    assert not any(p.requires_grad for p in fixed.method.undecayed(fixed.net))
    x = torch.rand(2, 3, 32, 32)
    two = Tunable(nets.resnet(depth=8, base_width=4), compose("float", scale="two-sided"))
    amounts = [float(two.resolve(Point(robustness=v), x).of(NoiseLevel).table) for v in (0, 0.25, 0.5, 0.75, 1)]
    assert amounts == [0.0, 0.5, 0.0, 0.5, 1.0]
    through = compose("float", clean_through_adversarial_norm=True, late_attack=True)
    terms = through.plan(8, torch.Generator())
    assert [(t.images, t.weight, t.late) for t in terms] == [
        ("clean", 0.5, False),
        ("clean", 0.5, False),
        ("adversarial", 0.5, True),
    ]
