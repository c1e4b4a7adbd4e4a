"""A model is of float32: another type is refused with the reason, and autocast is the way to a faster one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rheostat.points.point import Point
from support import images_for, make

CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda m: m.half(),
    "double": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.float16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_another_type_is_refused_with_the_reason(cast: str) -> None:
    """On the code before, `model.half()` passed and every call was a RuntimeError of a convolution."""
    model = make("oat", "resnet-8")
    x = images_for(model)
    before = model(x, Point(robustness=0.3))
    for module in (model, model.at(robustness=0.3), nn.Sequential(model)):
        with pytest.raises(ValueError, match=r"computes in float32, given \w+; .*autocast"):
            CASTS[cast](module)
    assert torch.equal(model(x, Point(robustness=0.3)), before)


def test_devices_layouts_and_autocast_are_not_casts() -> None:
    model = make("oats", "resnet-8")
    x = images_for(model)
    before = model(x).detach()
    model.to("cpu").float().to(torch.float32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x).detach()
    assert rough.dtype is torch.float32
    assert torch.allclose(rough, before, atol=0.1 * float(before.abs().max()))
    assert torch.allclose(model(x), before, atol=1e-4)
