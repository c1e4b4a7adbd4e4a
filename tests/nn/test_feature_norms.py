"""Layer and group norms as seats: PyTorch's own numbers, banks of affine parameters, rows at their own λ."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rheostat
from rheostat.methods.dual import Pair
from rheostat.nn.feature_norms import FeatureNorm, GroupNorm, LayerNorm
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from support import Plain


def moved(seat: FeatureNorm) -> FeatureNorm:
    with torch.no_grad():
        for parameter in seat.parameters():
            parameter.copy_(torch.rand(parameter.shape))
    return seat


def test_the_seats_compute_what_pytorch_does_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    layer, groups = moved(LayerNorm(8, eps=1e-6)), moved(GroupNorm(8, 4, eps=1e-3))
    tokens, images = torch.randn(3, 5, 8), torch.randn(3, 8, 4, 4)
    for phase in (Phase.EVAL, Phase.TRAIN):
        at = Resolved(phase=phase)
        source = layer.source
        expected = F.layer_norm(tokens, (8,), source.weight, source.bias, 1e-6)
        assert torch.equal(layer(tokens, at), expected)
        source = groups.source
        assert torch.equal(groups(images, at), F.group_norm(images, 4, source.weight, source.bias, 1e-3))
    assert layer(tokens.bfloat16(), Resolved()).dtype == torch.bfloat16


def test_fewer_channels_make_fewer_groups_of_the_same_size() -> None:
    seat = GroupNorm(8, 4)
    assert seat.groups_of(4) == 2
    with pytest.raises(ValueError, match="3 channels cut a group of a GroupNorm, whose groups have 2"):
        seat.groups_of(3)


def test_a_dual_norm_without_statistics_has_two_affine_sets_that_train_apart() -> None:
    model = rheostat.adopt(Plain, "dual", image=(3, 8, 8))
    seats = [m for m in model.modules() if isinstance(m, FeatureNorm)]
    assert len(seats) == 2
    x = torch.rand(6, 3, 8, 8)
    at = model.resolve(Point(robustness=1.0), x, phase=Phase.TRAIN)
    model.read(x, at).logits.sum().backward()
    for seat in seats:
        pair = seat.source
        assert isinstance(pair, Pair)
        assert pair.adversarial.weight.grad is not None
        assert pair.clean.weight.grad is None
        nn.init.constant_(pair.adversarial.bias, 0.3)
    clean, robust = model(x, Point(robustness=0.0)), model(x, Point(robustness=1.0))
    mixed = model(x, Point(robustness=torch.tensor([0.0, 1.0] * 3)))
    assert not torch.allclose(clean, robust, atol=1e-3)
    assert torch.allclose(mixed, torch.where(torch.arange(6)[:, None] % 2 == 0, clean, robust), atol=1e-5)
