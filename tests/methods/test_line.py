"""Weights on a straight line: its kernel, its norms in the middle, its plans, and what it composes with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rheostat import nets
from rheostat.attacks import Attack
from rheostat.calibration import calibrate_segment
from rheostat.data import to_pixels
from rheostat.methods import Dual, Film, Masks, Slim, Stack, compose
from rheostat.methods.line import Ends, Line
from rheostat.methods.lora import Lora
from rheostat.methods.segment import KNOTS, knots_of
from rheostat.models.adoption import adopt
from rheostat.models.costs import observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, Dense, append, weighted
from rheostat.nn.masking import Masking
from rheostat.points.point import Point
from support import Plain, paths, train_step


def shaken(model: Tunable, size: float = 0.1) -> Tunable:
    """The model with every parameter and statistic moved off its start, so that the ends differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.add_(size * torch.randn(tensor.shape, generator=generator) * ("Masking" not in name))
        for name, buffer in model.named_buffers():
            if name.rpartition(".")[2] in ("running_mean", "running_var"):
                buffer.add_(size * torch.rand(buffer.shape, generator=generator))
    return model


def narrow(*methods: object, image: tuple[int, int, int] = (1, 8, 8)) -> Tunable:
    torch.manual_seed(0)
    return Tunable(nets.resnet(depth=8, base_width=8, image=image), Stack(*methods))  # type: ignore[arg-type]


def test_the_kernel_is_the_straight_line_in_one_product_or_two() -> None:
    torch.manual_seed(0)
    conv = Conv(3, 4, padding=1)
    append(conv, ends := Ends(conv.weight))
    assert torch.equal(ends.other, conv.weight)
    with torch.no_grad():
        ends.other.normal_()
    model = narrow(Dual(), Line())
    x = torch.rand(4, 3, 5, 5)
    levels = torch.tensor([0.0, 0.25, 1.0, 0.25])
    expected = [F.conv2d(x, (1 - v) * conv.weight + v * ends.other, padding=1) for v in levels]
    flops = []
    by_row = torch.stack([expected[i][i] for i in range(4)])
    for level, wanted in ((0.25, expected[1]), (1.0, expected[2]), (levels, by_row)):
        with FlopCounterMode(display=False) as counter:
            found = conv(x, model.resolve(Point(robustness=level), x))
        flops.append(counter.get_total_flops())
        assert torch.allclose(found, wanted, atol=1e-5)
    assert flops[0] == flops[1] == flops[2] / 2


def test_a_line_has_twice_the_weights_and_the_macs_of_one_network() -> None:
    plain = observe(narrow(Dual()), (1, 8, 8))
    model = shaken(narrow(Dual(), Line()))
    weights = sum(s.weight.numel() for kind in (Conv, Dense) for s in model.modules() if isinstance(s, kind))
    for level in (0.0, 0.4, 1.0):
        cost = observe(model, (1, 8, 8), Point(robustness=level))
        assert cost.params == plain.params + weights
        assert cost.macs == plain.macs
        assert cost.convolution_nonzeros == plain.convolution_nonzeros


@pytest.mark.parametrize("norms", ["affine", "re-estimated"])
@pytest.mark.parametrize("kind", [Line, Lora])
def test_every_way_to_treat_norms_folds_mixes_and_trains_along_the_whole_dial(kind: type, norms: str) -> None:
    model = shaken(narrow(Dual(sets=1), kind(norms=norms)))
    x = torch.rand(4, 1, 8, 8)
    levels = torch.tensor([0.0, 0.35, 1.0, 0.62])
    mixed = model(x, Point(robustness=levels))
    for row, level in enumerate(levels.tolist()):
        at = Point(robustness=level)
        assert torch.allclose(mixed[row], model(x[row : row + 1], at)[0], atol=1e-4)
        expected = model(x, at)
        assert (fold(model, at)(x) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_step(model)
    still = [k for k, p in model.named_parameters() if torch.equal(before[k], p)]
    assert still == []


def test_statistics_in_the_middle_are_those_of_the_middle(digits) -> None:
    """Weights are linear in λ and their outputs' means too, but no variance is: the mean of the ends is wrong."""
    fit = digits[0].only(torch.arange(256))
    model = shaken(narrow(Dual(sets=1), Line(norms="re-estimated")), 0.5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calibrate_segment(model, fit, Attack("pgd", 1e-6, 1, drop=False), batch=64)
    after = model.state_dict()
    assert {k for k in after if not torch.equal(after[k], before[k])} == {k for k in after if "running_" in k}
    stem = model.net.blocks[0]
    knots = stem.norm.source
    assert knots.momentum == 0.1
    x = to_pixels(fit.images)
    for place in (0, 5, KNOTS - 1):
        seen = stem.conv(model.net.enter(x), model.resolve(Point(robustness=place / (KNOTS - 1)), x))
        assert torch.allclose(knots.running_mean[place], seen.mean((0, 2, 3)), atol=1e-4)
        # Means over batches of variances within batches leave out how batch means differ: a few per cent.
        assert torch.allclose(knots.running_var[place], seen.var((0, 2, 3)), rtol=0.05)
    straight = (knots.running_var[0] + knots.running_var[-1]) / 2
    assert ((straight - knots.running_var[5]) / knots.running_var[5]).abs().max() > 0.2
    with pytest.raises(ValueError, match="no statistics along a segment"):
        calibrate_segment(narrow(Dual(), Line()), fit, Attack("pgd", 0.1, 1))


def test_until_they_are_estimated_the_knots_between_lie_on_the_straight_line() -> None:
    model = shaken(narrow(Dual(sets=1), Line(norms="re-estimated", terms="halves")))
    train_step(model)
    for knots in knots_of(model):
        along = torch.linspace(0, 1, KNOTS)[:, None]
        assert torch.allclose(knots.running_var, torch.lerp(knots.running_var[:1], knots.running_var[-1:], along))
        assert not torch.equal(knots.running_var[0], knots.running_var[-1])


def test_the_terms_of_both_plans() -> None:
    halves = Stack(Dual(), Line(terms="halves")).plan(12, torch.Generator())
    assert [(t.images, t.at.numbers()["robustness"], len(t.rows)) for t in halves] == [
        ("clean", 0.0, 6),
        ("adversarial", 1.0, 6),
    ]
    drawn = set()
    for seed in range(20):
        terms = Stack(Dual(), Line()).plan(12, torch.Generator().manual_seed(seed))
        between, attacked, clean, robust = terms
        level = between.at.numbers()["robustness"]
        drawn.add(level)
        assert torch.equal(between.rows, attacked.rows)
        assert (between.weight, attacked.weight) == (1 - level, level)
        assert [len(t.rows) for t in (clean, between, robust)] == [4, 4, 4]
        assert torch.cat([clean.rows, between.rows, robust.rows]).sort().values.tolist() == list(range(12))
        total = sum(t.weight * len(t.rows) for t in terms)
        assert total == pytest.approx(12)
    assert drawn <= {k / 10 for k in range(1, 10)}
    assert len(drawn) > 4
    assert Stack(Dual(), Line()).path(0.25) == (0.05, 0.5)
    assert Stack(Dual(), Line(terms="halves")).path(0.25) == (0.25, 0.25)


def test_both_ends_are_sliced_and_a_mask_multiplies_the_sum() -> None:
    model = shaken(narrow(Dual(), Line(), Slim()))
    conv = model.net.blocks[1].conv1
    other = next(t.other for t in conv.transforms if isinstance(t, Ends))
    x = torch.rand(2, 4, 8, 8)
    at = model.resolve(Point(robustness=0.3, width=0.5), torch.rand(2, 1, 8, 8))
    weight = torch.lerp(conv.weight, other, 0.3)[:4, :4]
    assert torch.allclose(conv(x, at), F.conv2d(x, weight, padding=1), atol=1e-5)
    masked = shaken(Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), Stack(Dual(), Line(), Masks())))
    train_step(masked)
    for conv, path in zip((c for c in masked.modules() if isinstance(c, Conv)), paths(masked), strict=True):
        other = next(t.other for t in conv.transforms if isinstance(t, Ends))
        assert not bool((other * (1 - path.mask)).any())
        assert not bool((conv.weight * (1 - path.mask)).any())
        assert bool(other.any())
    cost = observe(masked, (1, 8, 8), Point(robustness=0.5))
    dense = observe(narrow(Dual()), (1, 8, 8))
    assert cost.convolution_nonzeros == pytest.approx(0.3 * dense.convolution_nonzeros, abs=9)


def test_an_adopted_network_gets_a_line() -> None:
    torch.manual_seed(0)
    own = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    x = torch.rand(3, 1, 12, 12)
    model = adopt(own, "line", image=(1, 12, 12))
    assert torch.allclose(model(x, Point(robustness=0.4)), own(x), atol=1e-5)
    shaken(model)
    assert (model(x, Point(robustness=0.0)) - model(x, Point(robustness=1.0))).abs().max() > 1e-3
    assert torch.allclose(fold(model, Point(robustness=0.4))(x), model(x, Point(robustness=0.4)), atol=1e-5)


def test_what_does_not_go_together_is_named() -> None:
    with pytest.raises(ValueError, match=r"line: norms 'affine' needs one norm set, and dual has two; give sets=1"):
        narrow(Dual(), Line(norms="affine"))
    with pytest.raises(ValueError, match=r'line: norms "banked" blends two norm sets, and dual has one; give sets=2'):
        Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), compose("line", norms="banked"))
    with pytest.raises(ValueError, match=r'lora: norms "banked" blends two norm sets'):
        narrow(Dual(sets=1), Lora())
    with pytest.raises(ValueError, match="both claim the weight segment"):
        Stack(Dual(), Line(), Lora())
    with pytest.raises(ValueError, match="reads the dial 'robustness'"):
        Stack(Line())
    with pytest.raises(ValueError, match="both define the terms"):
        Stack(Dual(), Line(), Film())
    with pytest.raises(ValueError, match="did you mean 'banked'"):
        compose("line", norms="bankd")
    with pytest.raises(ValueError, match=r"line: .*terms.*'sampled'"):
        compose("line", terms="sample")


@pytest.mark.parametrize(
    ("name", "options"), [("line", {}), ("lora", {"sets": 1, "norms": "re-estimated"}), ("line", {"norms": "affine"})]
)
def test_frozen_norms_and_weights_stay_frozen(name: str, options: dict[str, object]) -> None:
    module = Plain()
    module.stem.requires_grad_(False)
    model = adopt(module, compose(name, **options), image=(3, 8, 8))
    stem = {k: p for k, p in model.net.named_parameters() if k.startswith("blocks.0")}
    old = [p for k, p in stem.items() if "source" in k or k.endswith((".weight", ".other"))]
    assert len(old) >= 3
    assert not any(p.requires_grad for p in old)
    assert any(p.requires_grad for p in stem.values())


def test_masks_of_inner_linear_layers_reach_both_ends() -> None:
    model = adopt(Plain(), Stack(Dual(), Line(), Masks(density=0.3)), image=(3, 8, 8))
    train_step(model)
    for seat in weighted(model.net):
        mask = next(t.union() for t in seat.transforms if isinstance(t, Masking))
        ends = next(t for t in seat.transforms if isinstance(t, Ends))
        assert not ends.other[mask == 0].any()
    assert any(isinstance(seat, Dense) for seat in weighted(model.net))
