"""Methods together: costs of zeros, every pair in both orders, statistics, draws, kernels."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from rheostat import nets
from rheostat.attacks import Attack, named
from rheostat.attacks.objective import gradient
from rheostat.calibration.statistics import calibrate_norms
from rheostat.data import to_pixels
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.target import Target
from rheostat.methods import Dual, Exits, Experts, Film, Masks, Noise, Slim
from rheostat.methods.base import Stack
from rheostat.methods.composition import compose
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from support import train_step


def test_zeros_are_counted_apart_from_what_dense_kernels_run() -> None:
    plain = observe(Tunable(nets.resnet(depth=8), compose("pgd-at")), (3, 32, 32))
    assert plain.macs_nonzero == plain.macs
    weights = plain.convolution_nonzeros
    for paper, share in (("floats", 0.3), ("smart", 0.35)):
        model = Tunable(nets.resnet(depth=8), compose(paper, density=share))
        costs = [observe(model, (3, 32, 32), Point(robustness=v)) for v in (0.0, 1.0)]
        for cost in costs:
            assert cost.convolution_macs == plain.convolution_macs
            assert cost.convolution_nonzeros == pytest.approx(share * weights, abs=9)
            assert cost.macs_nonzero == pytest.approx(share * plain.macs, rel=0.02)
    union = observe(model, (3, 32, 32), Point(robustness=0.5))
    assert union.convolution_nonzeros == pytest.approx((1 - 0.65**2) * weights, rel=0.02)


PARTS = {
    "dual": Dual(),
    "film": Film(),
    "noise": Noise(),
    "slim": Slim(),
    "masks": Masks(),
    "experts": Experts(),
    "exits": Exits(),
}


REFUSED = {
    **{
        frozenset({reader, other}): "reads the dial"
        for reader, others in (
            ("film", ("noise", "slim", "masks", "experts", "exits")),
            ("noise", ("slim", "masks", "experts", "exits")),
            ("experts", ("slim", "exits")),
        )
        for other in others
    },
    frozenset({"masks", "experts"}): "both claim the weight masks",
}


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(PARTS, 2)))
@pytest.mark.parametrize("with_dual", [False, True])
def test_every_pair_in_both_orders(a: str, b: str, with_dual: bool) -> None:
    chosen = [PARTS[a], PARTS[b]] + ([Dual()] if with_dual and "dual" not in (a, b) else [])
    reason = REFUSED.get(frozenset({a, b}))
    if reason and not (with_dual and "reads" in reason):
        with pytest.raises(ValueError, match=reason):
            Stack(*chosen)
        return
    models = []
    for order in (chosen, chosen[::-1]):
        torch.manual_seed(0)
        models.append(Tunable(nets.resnet(depth=8, base_width=4, image=(3, 8, 8)), Stack(*order)))
    x = torch.rand(4, 3, 8, 8)
    first, second = models
    assert first.method == second.method
    assert first.state_dict().keys() == second.state_dict().keys()
    for model in models:
        if "exit" in model.dials:
            model.net.thresholds.fill_(2.0)
    for point in (Point(), *(Point(**{n: d.positions()[0]}) for n, d in first.dials.items())):
        assert torch.equal(first(x, point), second(x, point))
    if "robustness" in first.dials:
        levels = torch.tensor([0.0, 0.3, 1.0, 0.5])
        mixed = first(x, Point(robustness=levels))
        for row, level in enumerate(levels.tolist()):
            alone = first(x[row : row + 1], Point(robustness=level))[0]
            assert torch.allclose(mixed[row], alone, atol=1e-4)
    train_step(first)


def test_calibrated_norms_are_the_statistics_of_that_width_alone(digits) -> None:
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), compose("oats"))
    fit = digits[0].only(torch.arange(256))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attack = Attack("pgd", 0.2, 2, drop=False)
    calibrate_norms(model, 0.5, data=fit, attack=attack)
    after = model.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed
    assert all("running_" in k and ".sources.0." in k for k in changed)
    assert any(".adversarial." in k for k in changed)
    # The stem sees pixels alone: its clean mean is that of one pass over everything.
    stem = model.net.blocks[0]
    x = to_pixels(fit.images)
    at = model.resolve(Point(width=0.5), x)
    found = stem.conv(model.net.enter(x), at).mean((0, 2, 3))
    kept = stem.norm.source.sources[0].clean
    assert torch.allclose(kept.running_mean, found, atol=1e-4)
    assert kept.momentum == 0.1
    with pytest.raises(ValueError, match=r"no position 0.6; allowed: 0.5, 0.75, 1"):
        calibrate_norms(model, 0.6, data=fit, attack=attack)
    with pytest.raises(ValueError, match="pass `attack`"):
        calibrate_norms(model, 0.5, data=fit)
    plain = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("dual"))
    with pytest.raises(ValueError, match="no dial 'width'"):
        calibrate_norms(plain, 0.5, data=fit)


def test_expectation_over_draws_averages_and_is_asked_for(digits, tmp_path) -> None:
    torch.manual_seed(0)
    net = nets.resnet(depth=8, base_width=4, image=(1, 8, 8))
    model = Tunable(net, compose("float", draw="sampled", initial=2.0))
    x, y = to_pixels(digits[1].images[:40]), digits[1].labels[:40]
    point = Point(robustness=1.0)

    def gradients(draws: int, seed: int) -> torch.Tensor:
        found = model.objective(y, point, generator=torch.Generator().manual_seed(seed))
        return gradient(found.averaged(draws), x)[0]

    def spread(draws: int) -> float:
        return float((gradients(draws, 1) - gradients(draws, 2)).norm())

    assert spread(32) < 0.5 * spread(1)
    assert torch.equal(gradients(4, 1), gradients(4, 1))
    rows = {
        name: evaluate(Target(model, "sampled"), [point], [named(name, eps=0.1)], digits[1].only(torch.arange(40)))[-1]
        for name in ("pgd5", "pgd5-eot20")
    }
    untrained = {"constant-predictor"}
    assert set(rows["pgd5"].flags) - untrained == {"randomised-without-eot"}
    assert set(rows["pgd5-eot20"].flags) - untrained == set()
    draws = rows["pgd5-eot20"].draws
    assert len(draws.robust) == 10
    assert rows["pgd5-eot20"].robust_accuracy == pytest.approx(sum(draws.robust) / 10)
    assert len(set(draws.clean)) > 1
    again = evaluate(Target(model, "sampled"), [point], [named("pgd5", eps=0.1)], digits[1].only(torch.arange(40)))[-1]
    assert again.draws == rows["pgd5"].draws


STRIDED = """
import torch
torch.set_num_threads(2)
from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.points.phase import Phase
from rheostat.points.point import Point

torch.manual_seed(0)
net = nets.resnet(depth=8, base_width=16, image=(1, 28, 28))
model = Tunable(net, compose("oats")).to_layout(torch.channels_last)
for _ in range(20):
    for width in (0.5, 0.75):
        x = torch.rand(107, 1, 28, 28)
        at = model.resolve(Point(width=width, robustness=1.0), x, phase=Phase.TRAIN)
        model.read(x, at).logits.square().sum().backward()
"""


def test_narrow_strided_shortcuts_train_on_two_threads() -> None:
    """oneDNN writes past its workspace there unless they are strided by slices (its issue 6035)."""
    done = subprocess.run([sys.executable, "-c", STRIDED], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-300:]


def test_striding_by_slices_changes_no_number() -> None:
    conv = Conv(8, 6, kernel_size=1, stride=2)
    x = torch.rand(3, 8, 7, 9, requires_grad=True)
    at = Resolved()
    plain = torch.nn.functional.conv2d(x, conv.weight, stride=2)
    assert torch.equal(conv(x, at), plain)
    (expected,) = torch.autograd.grad(plain.square().sum(), conv.weight)
    (found,) = torch.autograd.grad(conv(x, at).square().sum(), conv.weight)
    assert torch.allclose(found, expected, rtol=1e-5)
