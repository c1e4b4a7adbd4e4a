"""Slimmable widths: costs, smaller networks inside, how they train."""

from __future__ import annotations

import pytest
import torch

from rheostat import nets
from rheostat.methods import Slim
from rheostat.methods.composition import compose
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import seats
from rheostat.points.point import Point
from support import images_for, make


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
        with pytest.raises(ValueError, match="widths must rise"):
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
