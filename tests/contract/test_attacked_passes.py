"""The passes of an attack share kernels and merge norms into them; they stay the network that is judged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.nn.norms import Norm
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.precision import full_precision, low_precision
from rheostat.runtime.seeding import stream
from support import images_for


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


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_an_image_made_in_bf16_is_judged_in_fp32(level: float) -> None:
    """Both passes share the memo of one objective, and the kernels of one must not serve the other."""
    model = Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), compose("dual"))
    x = torch.rand(4, 1, 8, 8)
    expected = model(x, Point(robustness=level))
    at = model.resolve(Point(robustness=level), x, memo=True)
    for _ in range(2):
        with low_precision(x.device):
            lowered = model.read(x, at).logits
        with full_precision():
            judged = model.read(x, at).logits
    torch.testing.assert_close(judged, expected)
    assert 0 < (lowered - expected).abs().max() < 0.05 * expected.abs().max().clamp_min(1)


def test_an_attack_at_one_point_runs_no_norm_that_follows_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), compose("dual"))
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
