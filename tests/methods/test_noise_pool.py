"""The pool that training noise comes from on the CPU: one a run, and its windows are unit normals."""

from __future__ import annotations

import copy

import pytest
import torch

from rheostat import data
from rheostat.methods.noise import WeightNoise, window
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, kernel, seats
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.runtime.seeding import stream
from rheostat.training.loop import build
from rheostat.training.recipe import load_recipe
from support import make


def noises(model: Tunable) -> list[WeightNoise]:
    """The noise of every convolution."""
    return [t for c in seats(model.net, Conv) for t in c.transforms if isinstance(t, WeightNoise)]


def built(seed: int) -> Tunable:
    """An untrained FLOAT of a run's seed."""
    recipe = load_recipe("oat-digits", changes=["paper=float", "method={}", f"train.seed={seed}"])
    return build(recipe, data.load("digits")[0])


def drawn(model: Tunable, step: int) -> list[torch.Tensor]:
    """The noise that each convolution adds in the pass of a training step, in units of its deviation."""
    at = model.resolve(Point(robustness=1.0), torch.zeros(1), phase=Phase.TRAIN, generator=stream(7, step))
    found = []
    for conv in seats(model.net, Conv):
        ((used, _),) = kernel(conv, torch.zeros(1, conv.in_channels, 3, 3), at)
        noise = next(t for t in conv.transforms if isinstance(t, WeightNoise))
        found.append(((used - conv.weight) / (noise.strength() * conv.weight.std(correction=0))).detach())
    return found


def test_seeds_of_runs_have_pools_of_their_own() -> None:
    first, again, other = built(0), built(0), built(1)
    seeds = [{n.pool_seed() for n in noises(m)} for m in (first, again, other)]
    assert [len(s) for s in seeds] == [1, 1, 1]
    assert seeds[0] == seeds[1] != seeds[2]
    for a, b, c in zip(drawn(first, 0), drawn(again, 0), drawn(other, 0), strict=True):
        assert torch.equal(a, b)
        # The same place of the window in another pool: nothing in common, where the pool of every run was one.
        assert abs(float((a * c).mean())) < 5 / a.numel() ** 0.5
    assert torch.equal(drawn(copy.deepcopy(first), 3)[0], drawn(first, 3)[0])


def test_the_pool_is_restored_with_the_state() -> None:
    """A resumed run, built in a process of any seed, goes on with the noise of the run it continues."""
    model, resumed = built(0), built(1)
    resumed.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(drawn(model, 5), drawn(resumed, 5), strict=True))


def test_noise_of_training_has_unit_moments_and_no_correlation_between_layers_and_steps() -> None:
    model = make("float", "resnet-18")
    steps = [drawn(model, step) for step in range(40)]
    layers = [torch.stack(found).flatten(1) for found in zip(*steps, strict=True)]
    for layer in layers:
        count = layer.numel()
        assert abs(float(layer.mean())) < 5 / count**0.5
        assert float(layer.square().mean()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
        if count > 5000:
            assert float(layer.pow(4).mean()) == pytest.approx(3, abs=5 * (96 / count) ** 0.5)
        # One weight from step to step.
        assert abs(float((layer[:-1] * layer[1:]).mean())) < 5 / (count - layer.shape[1]) ** 0.5
    # One place of two layers of the same shape, in the same step.
    pairs = [(a, b) for i, a in enumerate(layers) for b in layers[i + 1 :] if a.shape == b.shape]
    assert len(pairs) > 5
    for a, b in pairs:
        assert abs(float((a * b).mean())) < 5 / a.numel() ** 0.5


def test_windows_of_the_pool_are_unit_normals_anew_in_each_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = torch.Size((64, 64, 3, 3))
    found = torch.stack([window(shape, generator, 3) for _ in range(200)])
    assert found.mean().abs() < 0.01
    assert found.std() == pytest.approx(1, abs=0.01)
    # One weight over the passes, and neighbours within one: unit deviation, no correlation.
    over = found.flatten(1)[:, :500]
    assert over.std(0).mean() == pytest.approx(1, abs=0.02)
    assert float((over[:-1] * over[1:]).mean()) == pytest.approx(0, abs=0.02)
    assert float((found[..., 0] * found[..., 1]).mean()) == pytest.approx(0, abs=0.01)
    assert torch.equal(found[0], window(shape, torch.Generator().manual_seed(0), 3))
    assert not torch.equal(found[0], window(shape, torch.Generator().manual_seed(0), 4))
