"""What a point costs, observed on operators, never declared by a method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rheostat.points import Point
from rheostat.tunable import Tunable


@dataclass(frozen=True)
class Cost:
    """Cost of one image at a point. `macs` counts convolutions and matrix products as dense kernels
    run them; zeros in weights save none of it. `convolution_macs` is the part of convolutions."""

    params: int
    nonzeros: int
    bytes: int
    macs: int
    convolution_macs: int


def observe(model: nn.Module, image: tuple[int, int, int], point: Point | None = None) -> Cost:
    """The cost of one image (C, H, W) through a module, at a point if it is a Tunable."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = torch.zeros(1, *image, device=device)
    # Gradients stay enabled: the counter misses operators on parameters otherwise.
    with FlopCounterMode(display=False) as counter:
        model(x, point) if isinstance(model, Tunable) else model(x)
    by_operator = counter.get_flop_counts().get("Global", {})
    convolutions = sum(v for k, v in by_operator.items() if "convolution" in str(k))
    parameters = list(model.parameters())
    return Cost(
        params=sum(p.numel() for p in parameters),
        nonzeros=sum(int(p.count_nonzero()) for p in parameters),
        bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        macs=sum(by_operator.values()) // 2,
        convolution_macs=convolutions // 2,
    )
