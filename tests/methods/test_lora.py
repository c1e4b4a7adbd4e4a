"""Low-rank adapters along the dial: the sum they are, both forms, their sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rheostat import nets
from rheostat.methods import Dual, Slim, Stack, compose
from rheostat.methods.lora import Lora, LowRank
from rheostat.models.costs import observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.nn.layers import Conv, Dense, append
from rheostat.points.point import Point
from support import train_step


def small(method: Lora, *others: Slim) -> Tunable:
    torch.manual_seed(0)
    return Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), Stack(Dual(), method, *others))


@pytest.mark.parametrize("adapters", ["shared", "per-end"])
def test_the_kernel_is_the_published_sum(adapters: str) -> None:
    torch.manual_seed(0)
    conv = Conv(3, 6, padding=1)
    count = 1 if adapters == "shared" else 2
    append(conv, low := LowRank(conv.weight, rank=2, scale=2.0, count=count))
    model = small(Lora(adapters=adapters))
    x = torch.rand(4, 3, 5, 5)
    levels = torch.tensor([0.0, 0.3, 1.0, 0.5])
    before = conv(x, model.resolve(Point(robustness=0.3), x))
    assert torch.allclose(before, F.conv2d(x, conv.weight, padding=1), atol=1e-6)  # B = 0 at the start
    with torch.no_grad():
        for adapter in low.adapters:
            adapter.up.normal_()
    products = [(a.up @ a.down).view_as(conv.weight) for a in low.adapters]

    def weight(v: float) -> torch.Tensor:
        if adapters == "shared":
            return conv.weight + 2.0 * (v - 0.5) * products[0]
        return conv.weight + 2.0 * ((1 - v) * products[0] + v * products[1])

    mixed = conv(x, model.resolve(Point(robustness=levels), x))
    for row, v in enumerate(levels.tolist()):
        expected = F.conv2d(x, weight(v), padding=1)
        assert torch.allclose(conv(x, model.resolve(Point(robustness=v), x)), expected, atol=1e-5)
        assert torch.allclose(mixed[row], expected[row], atol=1e-5)


@pytest.mark.parametrize(("adapters", "count"), [("shared", 1), ("per-end", 2)])
def test_parameters_are_r_times_out_and_in(adapters: str, count: int) -> None:
    model = small(Lora(rank=4, alpha=8.0, adapters=adapters))
    plain = Tunable(nets.resnet(depth=8, base_width=8, image=(1, 8, 8)), compose("dual"))
    added = 0
    for seat in (m for m in model.modules() if isinstance(m, Conv | Dense)):
        out, inputs = seat.weight.shape[0], seat.weight[0].numel()
        added += count * min(4, out, inputs) * (out + inputs)
    cost, base = (observe(m, (1, 8, 8)) for m in (model, plain))
    assert cost.params == base.params + added
    assert cost.convolution_macs == base.convolution_macs
    # The product B·A is made once a pass and is counted; a folded point has none of it.
    assert cost.macs > base.macs
    assert observe(fold(model, Point(robustness=0.5)), (1, 8, 8)).macs == base.macs


def test_widths_slice_the_sum_and_a_step_reaches_every_part() -> None:
    model = small(Lora(adapters="per-end"), Slim())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    x = torch.rand(2, 1, 8, 8)
    for width in (0.5, 1.0):
        point = Point(robustness=0.4, width=width)
        assert torch.allclose(fold(model, point)(x), model(x, point), atol=1e-4)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    train_step(model)
    assert [k for k, p in model.named_parameters() if torch.equal(before[k], p)] == []


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1"):
        Lora(rank=0)
    with pytest.raises(ValueError, match="did you mean 'shared'"):
        Lora(adapters="share")
    with pytest.raises(ValueError, match="give sets=1"):
        small(Lora(norms="re-estimated"))
