"""Folding: every point that is one fixed network becomes a plain module, equal and no larger."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.adoption import adopt
from rheostat.models.costs import latency, observe
from rheostat.models.folding import FoldedExits, fold, foldable
from rheostat.models.plain_layers import plain
from rheostat.models.tunable import Tunable
from rheostat.nn.masking import Masking
from rheostat.points.point import Point
from support import images_for, make


def points_of(model: Tunable) -> list[Point]:
    """The ends and the middle of every dial."""
    found = [Point()]
    for dial in model.dials.values():
        found += [Point(**{dial.name: v}) for v in dial.values or (0.0, 0.3, 1.0)]
    return found


def test_every_foldable_point_equals_the_model_and_is_plain(model: Tunable) -> None:
    x = images_for(model)
    folds = 0
    for point in points_of(model):
        if model.method.passes(point) > 1:
            with pytest.raises(ValueError, match="2 passes"):
                fold(model, point)
            continue
        folded = fold(model, point)
        expected = model(x, point)
        assert (folded(x) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
        kinds = {type(m).__name__ for m in folded.modules()}
        assert not kinds & {"Conv", "Dense", "Norm", "Dropout"}
        folds += 1
        if model.method.live(point):  # the cost depends on where each row leaves
            assert isinstance(folded, FoldedExits)
            continue
        plain, dialled = (observe(folded, model.net.image), observe(model, model.net.image, point))
        # Less where masks leave whole channels out.
        assert plain.convolution_macs <= dialled.convolution_macs
        if not any(isinstance(m, Masking) for m in model.modules()):
            assert plain.convolution_macs == dialled.convolution_macs
    assert folds >= 1


def test_norms_go_into_convolutions_or_stay_one_affine() -> None:
    after = fold(make("oat", "resnet-8"), Point(robustness=0.5))
    assert not [m for m in after.modules() if type(m).__name__ == "Affine"]
    before = fold(make("oat", "wide_resnet"), Point(robustness=0.5))
    # Norm 1 of the second and third block and the last norm follow a sum; the first follows the stem.
    assert len([m for m in before.modules() if type(m).__name__ == "Affine"]) == 3


def test_a_folded_point_of_float_is_the_plain_backbone() -> None:
    net = {"depth": 8, "base_width": 4, "image": (3, 8, 8)}
    plain = fold(Tunable(nets.resnet(**net), compose("pgd-at")))
    folded = fold(Tunable(nets.resnet(**net), compose("float")), Point(robustness=1.0))
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in (plain, folded)]
    assert shapes[0] == shapes[1]


def test_a_fold_exports_and_survives_in_place_layouts() -> None:
    model = make("oats", "resnet-18")
    folded = fold(model, Point(robustness=0.3, width=0.5))
    x = images_for(model)
    program = torch.export.export(folded, (x,))
    assert torch.allclose(program.module()(x), model(x, Point(robustness=0.3, width=0.5)), atol=1e-4)
    fast = folded.to(memory_format=torch.channels_last)
    assert torch.allclose(fast(x), model(x, Point(robustness=0.3, width=0.5)), atol=1e-4)


def test_an_adopted_network_folds() -> None:
    torch.manual_seed(0)
    mine = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    model = adopt(mine, compose("float"), image=(1, 12, 12))
    x = torch.rand(3, 1, 12, 12)
    folded = fold(model, Point(robustness=0.7))
    assert torch.allclose(folded(x), model(x, Point(robustness=0.7)), atol=1e-5)


def test_what_does_not_fold_says_why() -> None:
    sampled = Tunable(nets.resnet(depth=8, base_width=4), compose("float", draw="sampled"))
    assert fold(sampled, Point(robustness=0.0)) is not None
    with pytest.raises(ValueError, match="draws noise"):
        fold(sampled, Point(robustness=0.5))
    with pytest.raises(ValueError, match="one value per example"):
        fold(make("oat", "resnet-8"), Point(robustness=torch.tensor([0.0, 1.0])))


def test_a_fold_that_changes_the_outputs_is_an_error_and_not_a_pass_that_does_not_fold(monkeypatch) -> None:
    def wrong(module: nn.Module, x: torch.Tensor) -> nn.Module:
        return nn.Sequential(plain(module, x), nn.Softmax(1))

    monkeypatch.setattr("rheostat.models.folding.plain", wrong)
    model = make("oat", "resnet-8")
    with pytest.raises(ValueError, match="changed the outputs"):
        foldable(model, Point())


def test_latency_is_measured_in_turn() -> None:
    model = make("oat", "resnet-8")
    found = latency(
        {"dialled": model.at(robustness=0.3), "folded": fold(model, Point(robustness=0.3))},
        model.net.image,
        batch=2,
        seconds=0.05,
    )
    assert list(found) == ["dialled", "folded"]
    for one in found.values():
        assert 0 < one.low <= one.median <= one.high <= one.p99
        assert one.n >= 10
        assert one.batch == 2
    with pytest.raises(ValueError, match="batch"):
        latency({"m": model}, model.net.image, batch=0)
