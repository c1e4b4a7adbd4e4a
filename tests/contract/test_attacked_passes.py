"""The passes of an attack share kernels and merge norms into them; they stay the network that is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.adoption import adopted
from rheostat.models.tunable import Tunable
from rheostat.nn.norms import Norm
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.precision import full_precision, low_precision
from rheostat.runtime.seeding import stream
from support import images_for, make


def loss_and_gradient(model: Tunable, x: Tensor, point: Point, phase: Phase, *, memo: bool) -> tuple[Tensor, Tensor]:
    """Logits of the second of two passes, as an attack makes them, and the gradient of their squares."""
    at = model.resolve(point, x, phase=phase, generator=stream("noise"), memo=memo)
    for _ in range(2):
        given = x.clone().requires_grad_()
        logits = model.read(given, at).logits
    return logits.detach(), torch.autograd.grad(logits.square().sum(), given)[0]


@pytest.mark.parametrize("phase", [Phase.ATTACK, Phase.EVAL])
def test_passes_of_an_attack_equal_passes_of_the_model(model: Tunable, phase: Phase) -> None:
    x = images_for(model)
    mixed = torch.linspace(0.2, 1, len(x))
    levels = [0.0, 0.4, 1.0, mixed] if "robustness" in model.dials else [None]
    for level in levels:
        point = model.complete(Point() if level is None else Point(robustness=level))
        logits, gradient = loss_and_gradient(model, x, point, phase, memo=False)
        found, slope = loss_and_gradient(model, x, point, phase, memo=True)
        assert (found - logits).abs().max() <= 1e-4 * logits.abs().max().clamp_min(1)
        assert (slope - gradient).norm() <= 1e-3 * gradient.norm().clamp_min(1e-3)


def test_single_rows_of_an_objective_keep_their_own_settings(model: Tunable) -> None:
    """An attack that narrows to one row, and later to another, must not reuse the kernels of the first."""
    if "robustness" not in model.dials:
        pytest.skip("no dial")
    x = images_for(model, 3)
    point = model.complete(Point(robustness=torch.tensor([0.2, 1.0, 0.6])))
    if model.method.randomised(point):
        pytest.skip("draws noise")
    expected = model.read(x, model.resolve(point, x)).logits
    at = model.resolve(point, x, memo=True)
    for row in (torch.tensor([i]) for i in range(3)):
        found = model.read(x[row], at.only(row)).logits
        assert (found - expected[row]).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1)


def test_a_norm_of_a_users_own_runs_in_attacks_too() -> None:
    class Centred(Norm):
        def forward(self, x: Tensor, at: Resolved) -> Tensor:
            return super().forward(x, at) - x.mean((2, 3), keepdim=True)

    model = Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), compose("pgd-at"))
    for block in model.net.blocks:
        block._modules["norm" if "norm" in block._modules else "norm1"] = Centred(
            block.get_submodule("norm" if "norm" in block._modules else "norm1").channels
        )
    x = torch.rand(2, 1, 8, 8)
    plain, slope = loss_and_gradient(model, x, model.complete(Point()), Phase.EVAL, memo=False)
    found, same = loss_and_gradient(model, x, model.complete(Point()), Phase.EVAL, memo=True)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(same, slope)


@pytest.mark.parametrize("paper", ["dual", "oat", "lora", "line", "float"])
@pytest.mark.parametrize("level", [0.4, 1.0])
def test_an_image_made_in_bf16_is_judged_in_fp32(paper: str, level: float) -> None:
    """Both passes share the memo of one objective, and what one computed must not serve the other."""
    model = make(paper, "resnet-8")
    x = images_for(model)
    point = model.complete(Point(robustness=level))
    expected = model.read(x, model.resolve(point, x, generator=stream("noise"))).logits
    at = model.resolve(point, x, memo=True, generator=stream("noise"))
    for _ in range(2):
        with low_precision(x.device):
            lowered = model.read(x, replace(at, generator=stream("noise"))).logits
        with full_precision():
            judged = model.read(x, replace(at, generator=stream("noise"))).logits
    assert (judged - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
    assert 0 < (lowered - expected).abs().max() < 0.1 * expected.abs().max().clamp_min(1)


def users_own() -> nets.Net:
    blocks = [(nn.Conv2d(a, a + 8, 3, padding=1), nn.BatchNorm2d(a + 8), nn.ReLU(inplace=True)) for a in (1, 9)]
    return adopted(
        nn.Sequential(
            *blocks[0], nn.MaxPool2d(2), *blocks[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(17, 10)
        ),
        image=(1, 8, 8),
    )


@pytest.mark.parametrize("net", [lambda: nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), users_own])
def test_an_attack_at_one_point_runs_no_norm_that_follows_a_convolution(
    net: Callable[[], nets.Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Tunable(net(), compose("dual"))
    ran: list[Norm] = []
    forward = Norm.forward

    def noted(self: Norm, x: Tensor, at: Resolved) -> Tensor:
        ran.append(self)
        return forward(self, x, at)

    monkeypatch.setattr(Norm, "forward", noted)
    x = torch.rand(2, 1, 8, 8)
    loss_and_gradient(model, x, Point(robustness=1.0), Phase.ATTACK, memo=True)
    assert ran == []
    loss_and_gradient(model, x, Point(robustness=1.0), Phase.TRAIN, memo=False)
    assert len(ran) == 2 * sum(isinstance(m, Norm) for m in model.modules())
