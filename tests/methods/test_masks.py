"""Learned masks: shares, conservation, the rule of dropping and growing, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, seats
from rheostat.nn.masking import Masking, Path, magnitude_mask, random_mask
from rheostat.nn.rewiring import capped_shares, lowered, rewire, shares
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from support import NETS, images_for, make, paths, train_step

CHANNEL = {"structure": "channel"}


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


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_capped_shares_are_exact_too(layers: list[tuple[float, int]], part: float) -> None:
    importance, free = torch.tensor([a for a, _ in layers]), torch.tensor([b for _, b in layers])
    total = int(part * int(free.sum()))
    found = capped_shares(importance, total, free)
    assert sum(found) == total
    assert all(0 <= g <= f for g, f in zip(found, free.tolist(), strict=True))


def test_capped_shares_spread_what_is_too_much_equally() -> None:
    """By hand: 0.8 of 200 is 160, capped at 99; the 61 above go to the three layers alike, and again."""
    importance, free = torch.tensor([0.8, 0.15, 0.05]), torch.tensor([100, 1000, 1000])
    # In proportion the second layer would get three times what the third does.
    assert shares(importance, 200, free) == [100, 75, 25]
    capped = capped_shares(importance, 200, free)
    assert capped[0] in (99, 100)
    # What is cut off is split evenly: the layers differ by what they began with, 30 and 10.
    assert capped[1] - capped[2] in (19, 20, 21)


def test_nearly_dense_layers_that_are_to_grow_drop_less() -> None:
    density = torch.tensor([0.9, 0.9, 0.5])
    assert lowered(0.4, density, torch.tensor([3.0, 0.1, 0.2])) == [pytest.approx(0.1), 0.4, 0.4]
    assert lowered(0.05, density, torch.tensor([3.0, 0.1, 0.2])) == [0.05, 0.05, 0.05]


def test_capped_growth_conserves_the_density_of_a_net() -> None:
    model = make("floats", "resnet-8")
    train_step(model)
    weights, found = [c.weight for c in seats(model.net, Conv)], paths(model)
    before = sum(p.nonzeros for p in found)
    for _ in range(3):
        rewire(weights, found, 0.5, blocked=[None] * len(found), growth="capped")
        assert sum(p.nonzeros for p in found) == before


@pytest.mark.parametrize(
    ("name", "options"), [("floats", {}), ("smart", {}), ("smart", {"overlap": "disjoint"}), ("floats", CHANNEL)]
)
def test_frozen_layers_keep_their_weights_and_masks(name: str, options: dict[str, str]) -> None:
    model = Tunable(NETS["resnet-8"](), compose(name, **options))
    block = model.net.blocks[1].requires_grad_(False)
    before = {k: v.clone() for k, v in block.state_dict().items() if "running" not in k and "average" not in k}
    masks = [path.mask.clone() for path in paths(model)]
    for epoch in range(3):
        train_step(model, epoch)
        model.method.after_epoch(model.net, 0.1)
    after = block.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert any(bool((path.mask != mask).any()) for path, mask in zip(paths(model), masks, strict=True))
    model.requires_grad_(False)
    model.method.after_epoch(model.net, 0.1)  # nothing to rewire


@pytest.mark.parametrize(("name", "start"), [("floats", "random"), ("floats", "magnitude"), ("smart", "random")])
def test_a_low_density_leaves_every_layer_a_weight(name: str, start: str) -> None:
    net = nets.resnet(depth=8, base_width=4, image=(1, 8, 8))
    model = Tunable(net, compose(name, density=0.001, start=start))
    for _ in range(2):
        assert min(path.nonzeros for path in paths(model)) >= 1
        assert model(images_for(model), Point(robustness=1.0)).isfinite().all()
        train_step(model)
        model.method.after_epoch(model.net, 0.1)


def test_layers_without_a_weight_and_diverged_gradients_stop_nothing() -> None:
    weights = [torch.randn(4, 4, 1, 1), torch.randn(8, 4, 3, 3)]
    found = [Path(weights[0], torch.zeros_like(weights[0])), Path(weights[1], random_mask(weights[1], 0.3))]
    before = sum(p.nonzeros for p in found)
    found[1].average.normal_()
    rewire(weights, found, 0.5, blocked=[None] * 2)
    assert sum(p.nonzeros for p in found) == before
    found[1].average.fill_(float("nan"))
    masks = [p.mask.clone() for p in found]
    rewire(weights, found, 0.5, blocked=[None] * 2)
    assert all(torch.equal(p.mask, mask) for p, mask in zip(found, masks, strict=True))


@pytest.mark.parametrize("draw", [random_mask, magnitude_mask])
def test_disjoint_masks_of_half_an_odd_number_of_weights_do_not_overlap(draw) -> None:
    weight = torch.randn(7, 1, 1, 1)
    clean = draw(weight, 0.5)
    assert not (clean * draw(weight, 0.5, without=clean)).any()
