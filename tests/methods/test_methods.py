"""The mathematics of widths, noise, masks and experts (METHODS.md §2-§5), and every pair of methods."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat import nets
from rheostat.attacks import Attack, named
from rheostat.attacks.objective import gradient
from rheostat.calibration.dial import calibrate_norms
from rheostat.data import to_pixels
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.target import Target
from rheostat.methods import Dual, Exits, Experts, Film, Masks, Noise, Slim
from rheostat.methods.base import Stack, row_loss
from rheostat.methods.composition import compose
from rheostat.methods.noise import NoiseLevel, WeightNoise, deviation, strengths, window
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, seats
from rheostat.nn.masking import Masking, Path, random_mask, rewire, shares
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from support import images_for, make


def paths(model: Tunable) -> list[Path]:
    return [m for m in model.modules() if isinstance(m, Path)]


def train_step(model: Tunable, seed: int = 0, lr: float = 0.05) -> None:
    """One step of a method's own plan, without an attack: gradients, update, bookkeeping."""
    x = images_for(model, 12)
    y = torch.arange(12) % 10
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    for term in model.method.plan(12, generator):
        at = model.resolve(term.at, x[term.rows], phase=Phase.TRAIN, generator=generator)
        loss = row_loss(model.read(x[term.rows], at), y[term.rows])
        (loss * term.weight).sum().div(12).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    model.method.after_step(model.net, 0.1)


# Widths.


def test_slimmable_resnet34_costs_are_the_papers() -> None:
    model = Tunable(nets.resnet(depth=34), compose("oats"))
    macs = [observe(model, (3, 32, 32), Point(width=w)).convolution_macs / 1e6 for w in (0.5, 0.75, 1.0)]
    assert macs == [pytest.approx(v, abs=1.0) for v in (290, 652, 1159)]


def test_a_width_is_a_smaller_network() -> None:
    model = make("oats", "resnet-8")
    small = Tunable(nets.resnet(depth=8, base_width=2, image=(3, 8, 8)), compose("oat"))
    state = model.state_dict()
    own = small.state_dict()
    for key, value in own.items():
        name = key.replace(".source.", ".source.sources.0.")
        full = state[name] if name in state else state[key]
        if "modulations" in key:
            continue
        own[key] = full[tuple(slice(0, n) for n in value.shape)]
    # γ and β are sliced separately out of the shared generator.
    for norm, tiny in zip(_norms(model), _norms(small), strict=True):
        for generator, less in zip(norm.modulations, tiny.modulations, strict=True):
            level = torch.tensor([0.3])
            code = torch.cos(torch.pi * level[:, None] * torch.arange(2))
            out = generator.out(torch.nn.functional.leaky_relu(generator.hidden(code)))[0]
            c, half = norm.channels, tiny.channels
            with torch.no_grad():
                less.hidden.weight.zero_()
                less.hidden.bias.zero_()
                less.out.weight.zero_()
                less.out.bias.copy_(torch.cat([out[:half], out[c : c + half]]))
    small.load_state_dict({k: v for k, v in own.items() if "modulations" not in k}, strict=False)
    x = images_for(model)
    point = Point(robustness=0.3)
    assert torch.allclose(model(x, point.replace(width=0.5)), small(x, point), atol=1e-5)


def _norms(model: Tunable):
    from rheostat.nn.norms import Norm

    return list(seats(model.net, Norm))


def test_widths_are_checked() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("oats", widths=[0.25, 0.5, 0.75, 1.0]))
    with pytest.raises(ValueError, match=r"no position 0\.6; allowed: 0\.25, 0\.5, 0\.75, 1"):
        model(torch.rand(1, 3, 32, 32), Point(width=0.6))
    for bad in ((), (0.5,), (1.0, 0.5), (0.0, 1.0)):
        with pytest.raises(ValueError, match="widths rise"):
            Slim(widths=bad)
    with pytest.raises(ValueError, match="did you mean 'per-width'"):
        Slim(heads="per-widht")


def test_all_widths_train_alike_and_heads_may_differ() -> None:
    terms = compose("oats").plan(30, torch.Generator().manual_seed(0))
    assert [t.at["width"] for t in terms] == [0.5] * 3 + [0.75] * 3 + [1.0] * 3
    weight = sum(float(torch.as_tensor(t.weight).expand(len(t.rows)).sum()) for t in terms)
    assert weight == pytest.approx(30, abs=1e-4)
    shared = Tunable(nets.resnet(depth=8, base_width=4), compose("oats"))
    own = Tunable(nets.resnet(depth=8, base_width=4), compose("oats", heads="per-width"))
    extra = sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in shared.parameters())
    assert extra == (8 * 10 + 10) + (12 * 10 + 10)
    assert own(torch.rand(2, 3, 32, 32), Point(width=0.5)).shape == (2, 10)


# Noise.


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
    through = compose("float", clean_through_adversarial_norm=True)
    terms = through.plan(8, torch.Generator())
    assert [(t.images, t.weight) for t in terms] == [("clean", 1.0), ("adversarial", 1.0), ("clean", 0.0)]


# Masks.


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_shares_are_exact_and_capped(layers: list[tuple[float, int]], part: float) -> None:
    importance = torch.tensor([a for a, _ in layers])
    free = torch.tensor([b for _, b in layers])
    total = int(part * int(free.sum()))
    given_ = shares(importance, total, free)
    assert sum(given_) == total
    assert all(0 <= g <= f for g, f in zip(given_, free.tolist(), strict=True))


@given(density=st.floats(0.02, 0.9), rate=st.floats(0, 0.95), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_density_is_conserved_to_the_weight_and_no_layer_dies(density, rate, seed) -> None:
    torch.manual_seed(seed)
    weights = [torch.randn(shape) for shape in ((8, 3, 3, 3), (4, 8, 1, 1), (16, 4, 3, 3))]
    found = [Path(w, random_mask(w, max(density, 1 / w.numel() * 2))) for w in weights]
    for weight, path in zip(weights, found, strict=True):
        path.average.copy_(torch.randn(weight.shape) * torch.rand(()))
        weight.mul_(path.mask)
    before = sum(p.nonzeros for p in found)
    for _ in range(3):
        rewire(weights, found, rate, blocked=[None] * 3)
        assert sum(p.nonzeros for p in found) == before
        assert all(p.nonzeros >= 1 for p in found)
        assert all(set(p.mask.unique().tolist()) <= {0.0, 1.0} for p in found)


def test_the_rule_drops_the_smallest_and_grows_where_the_gradient_is_largest() -> None:
    weight = torch.tensor([[4.0, -1.0, 3.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
    path = Path(weight, torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0]]))
    path.average.copy_(torch.tensor([[0.1, 0.1, 0.1, 0.2, 0.3, -0.9, 0.4, 0.0]]))
    rewire([weight], [path], 0.5, blocked=[None])
    assert path.mask[0].tolist() == [1, 0, 1, 0, 0, 1, 1, 0]


def test_the_average_is_dense_and_only_training_feeds_it() -> None:
    model = make("floats", "resnet-8")
    x = images_for(model)
    y = torch.zeros(6, dtype=torch.long)
    for phase in (Phase.ATTACK, Phase.EVAL):
        objective = model.objective(y, Point(robustness=1.0), phase=phase)
        leaf = x.clone().requires_grad_(True)
        torch.autograd.grad(objective(leaf).sum(), leaf)
    assert all(not p.pending.any() for p in paths(model))
    train_step(model)
    for path in paths(model):
        off = path.mask == 0
        assert path.average[off].abs().max() > 0  # regrowth can see masked places
        assert path.average.dtype == torch.float32


def test_stored_weights_and_gradients_are_masked_and_the_noise_too() -> None:
    model = make("floats", "resnet-8")
    train_step(model)
    total = sum(p.nonzeros for p in paths(model))
    before = [p.mask.clone() for p in paths(model)]
    model.method.after_epoch(model.net, 0.3)
    assert sum(p.nonzeros for p in paths(model)) == total
    moved = 0
    for conv, old in zip(seats(model.net, Conv), before, strict=True):
        (masking,) = [t for t in conv.transforms if isinstance(t, Masking)]
        mask = masking.paths[0].mask
        assert not conv.weight[mask == 0].any()
        at = model.resolve(Point(robustness=1.0), torch.zeros(1))
        ((used, _),) = list(_kernel(conv, model, at))
        assert not used[mask == 0].any()
        grown = (mask == 1) & (old == 0)
        assert not conv.weight[grown].any()  # what grows again starts at 0
        assert conv.weight[(mask == 1) & (old == 1)].any()
        moved += int(grown.sum())
    assert moved > 0


def _kernel(conv: Conv, model: Tunable, at):
    from rheostat.nn.layers import kernel

    return kernel(conv, torch.zeros(1, conv.in_channels, 3, 3), at)


def test_initial_masks_are_exact() -> None:
    model = Tunable(nets.resnet(depth=8, base_width=4), compose("floats", density=0.3))
    for path in paths(model):
        assert path.nonzeros == round(0.3 * path.mask.numel())


# Experts.


def test_each_path_is_its_own_masked_network() -> None:
    model = make("smart", "resnet-8")
    plain = make("pgd-at", "resnet-8")
    x = images_for(model)
    for end, norm in ((0, "clean"), (1, "adversarial")):
        state = {
            k.replace(f"source.{norm}.", "source."): v
            for k, v in model.state_dict().items()
            if "transforms" not in k and f".{'clean' if end else 'adversarial'}." not in k
        }
        for name, conv in model.named_modules():
            if isinstance(conv, Conv):
                mask = conv.transforms[0].paths[end].mask
                state[f"{name}.weight"] = conv.weight.detach() * mask
        plain.load_state_dict(state)
        assert torch.allclose(model(x, Point(robustness=float(end))), plain(x), atol=1e-5)


def test_between_the_ends_logits_are_mixed_at_two_passes() -> None:
    model = make("smart", "resnet-8")
    x = images_for(model)
    ends = [model(x, Point(robustness=v)) for v in (0.0, 1.0)]
    assert torch.allclose(model(x, Point(robustness=0.3)), 0.7 * ends[0] + 0.3 * ends[1], atol=1e-5)
    one, two = (observe(model, (3, 8, 8), Point(robustness=v)).macs for v in (1.0, 0.3))
    assert two == 2 * one


def test_each_path_learns_from_its_own_gradients() -> None:
    model = make("smart", "resnet-8")
    x, y = images_for(model), torch.zeros(6, dtype=torch.long)
    at = model.resolve(Point(robustness=1.0), x, phase=Phase.TRAIN)
    row_loss(model.read(x, at), y).sum().backward()
    for masking in (m for m in model.modules() if isinstance(m, Masking)):
        assert not masking.paths[0].pending.any()
        assert masking.paths[1].pending.any()


def test_a_transfer_attack_through_the_other_path_is_weaker(digits) -> None:
    from rheostat.attacks import Attack
    from rheostat.training.loop import train
    from rheostat.training.recipe import load_recipe

    chosen = load_recipe(
        "oat-digits",
        changes=[
            "paper=smart",
            "method={}",
            "train.epochs=12",
            "calibrate_dial=false",
            "select.every=99",
            "select.images=20",
        ],
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model = train(chosen, out=folder).model
    x, y = digits[1].images / 255, digits[1].labels
    attack = Attack("pgd", 0.1, 10)
    robust = Point(robustness=1.0)
    hit = []
    for point in (robust, Point(robustness=0.0)):
        moved = attack(model.objective(y, point), x, torch.Generator().manual_seed(0))
        with torch.no_grad():
            hit.append(float((model(moved, robust).argmax(1) == y).float().mean()))
    assert hit[0] + 0.05 < hit[1]


@pytest.mark.parametrize("overlap", ["free", "disjoint"])
@pytest.mark.parametrize("masks", ["learned", "random"])
@pytest.mark.parametrize("shared", [0, 2])
def test_options_of_experts(overlap: str, masks: str, shared: int) -> None:
    torch.manual_seed(0)
    model = Tunable(
        nets.resnet(depth=8, base_width=4, image=(3, 8, 8)),
        compose("smart", overlap=overlap, masks=masks, shared_stages=shared),
    )
    found = [m for m in model.modules() if isinstance(m, Masking)]
    assert len(found) == (9 if not shared else 6)  # stem and stage 1 hold three convolutions
    counts = [[p.nonzeros for p in m.paths] for m in found]
    totals = [sum(c) for c in zip(*counts, strict=True)]
    for i in range(3):
        train_step(model, i)
        model.method.after_epoch(model.net, 0.3 * i)
    after = [[p.nonzeros for p in m.paths] for m in found]
    assert [sum(c) for c in zip(*after, strict=True)] == totals
    assert (after == counts) == (masks == "random")
    if overlap == "disjoint":
        assert all(not (m.paths[0].mask * m.paths[1].mask).any() for m in found)


def test_impossible_experts_and_masks_are_named() -> None:
    for options, message in (
        ({"density": 0.6, "overlap": "disjoint"}, "at most 0.5 with disjoint"),
        ({"masks": "lerned"}, "did you mean 'learned'"),
        ({"shared_stages": -1}, "not negative"),
    ):
        with pytest.raises(ValueError, match=message):
            compose("smart", **options)
    with pytest.raises(ValueError, match="below the 4 stages"):
        Tunable(nets.resnet(depth=8), compose("smart", shared_stages=4))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Masks(density=1.0)


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


# Every pair, in both orders: builds the same network, or is refused with the reason.

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
    with pytest.raises(ValueError, match="give attack"):
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


def test_windows_of_the_pool_are_unit_normals_anew_in_each_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = torch.Size((64, 64, 3, 3))
    drawn = torch.stack([window(shape, generator) for _ in range(200)])
    assert drawn.mean().abs() < 0.01
    assert drawn.std() == pytest.approx(1, abs=0.01)
    # One weight over the passes, and neighbours within one: unit deviation, no correlation.
    over = drawn.flatten(1)[:, :500]
    assert over.std(0).mean() == pytest.approx(1, abs=0.02)
    assert float((over[:-1] * over[1:]).mean()) == pytest.approx(0, abs=0.02)
    assert float((drawn[..., 0] * drawn[..., 1]).mean()) == pytest.approx(0, abs=0.01)
    again = torch.Generator().manual_seed(0)
    assert torch.equal(drawn[0], window(shape, again))


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
