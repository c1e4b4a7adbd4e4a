"""The average of weights: masks stay masks, and weights stay where they are."""

from __future__ import annotations

import pytest
import torch

from rheostat import data
from rheostat.models.costs import observe
from rheostat.nn.layers import Conv, seats
from rheostat.nn.masking import Masking, Path
from rheostat.training.averaging import decay_at, follow, updated
from rheostat.training.loop import build
from rheostat.training.recipe import load_recipe


@pytest.mark.parametrize("paper", ["floats", "smart"])
def test_masks_of_an_averaged_model_are_masks_and_its_density_is_that_of_the_method(paper: str) -> None:
    """Averaged masks were fractional at 2 586 of 19 144 places: density 0.37 for 0.30."""
    chosen = load_recipe("oat-digits", changes=[f"paper={paper}", "method={}"])
    model = build(chosen, data.load("digits")[0])
    generator = torch.Generator().manual_seed(0)
    average = None
    before = {k: v.clone() for k, v in model.state_dict().items() if k.endswith(".mask")}
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            for module in model.modules():
                if isinstance(module, Path):
                    module.pending.copy_(torch.randn(module.pending.shape, generator=generator))
        model.method.after_step(model.net, step / 6)
        average = updated(average, model, 0.5, 10**6)
        if step % 2:
            model.method.after_epoch(model.net, step / 6)
            follow(average, model)
    assert average is not None
    masks = {k: v for k, v in model.state_dict().items() if k.endswith(".mask")}
    assert any(not torch.equal(masks[k], before[k]) for k in masks)
    assert all(torch.equal(average[k], v) for k, v in masks.items())
    weight = next(k for k, _ in model.named_parameters())
    assert not torch.equal(average[weight], model.state_dict()[weight])
    model.load_state_dict(average)
    total = used = 0
    for conv in seats(model.net, Conv):
        for transform in conv.transforms:
            if isinstance(transform, Masking):
                assert bool((conv.weight[transform.union() == 0] == 0).all())
                used += sum(path.nonzeros for path in transform.paths)
                total += conv.weight.numel() * len(transform.paths)
    density = next(m.density for m in model.method.methods if hasattr(m, "density"))
    assert used / total == pytest.approx(density, abs=2e-3)
    cost = observe(model, model.net.image)
    assert cost.convolution_nonzeros <= density * sum(c.weight.numel() for c in seats(model.net, Conv)) + 50


def test_norm_statistics_are_averaged_as_weights_are() -> None:
    model = build(load_recipe("oat-digits"), data.load("digits")[0])
    average = updated(None, model, 0.75, 1)
    name = next(k for k in average if k.endswith("running_mean"))
    with torch.no_grad():
        model.state_dict()[name].fill_(1.0)
    assert torch.allclose(updated(average, model, 0.75, 10**6)[name], torch.tensor(0.25))


def test_the_first_state_leaves_the_average_within_a_short_run() -> None:
    """A fixed decay of 0.999 kept 74 % of the first state after 300 steps, and its variances with it."""
    model = build(load_recipe("oat-digits"), data.load("digits")[0])
    name = next(k for k, _ in model.named_buffers() if k.endswith("running_var"))
    with torch.no_grad():
        model.state_dict()[name].fill_(100.0)
        average = updated(None, model, 0.999, 1)
        model.state_dict()[name].fill_(1.0)
        for step in range(2, 301):
            average = updated(average, model, 0.999, step)
    assert torch.allclose(average[name], torch.tensor(1.0), atol=1e-3)


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (90, 0.91), (10**6, 0.999)])
def test_the_decay_grows_to_the_one_asked_for(step: int, decay: float) -> None:
    assert decay_at(step, 0.999) == pytest.approx(decay)
