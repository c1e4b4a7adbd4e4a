"""Fold a point into a plain `nn.Module`: all conditioning becomes part of the weights.

Noise, masks and widths become plain weights, and norms become part of convolutions (`plain_layers`). The graph is
traced (torch.fx), so it folds exactly what the pass computes, and the result is checked against the pass.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rheostat.methods.base import Output
from rheostat.methods.exits import Exits, depth_of, leave_early, policy
from rheostat.models.plain_layers import plain
from rheostat.models.tunable import Tunable
from rheostat.nets.base import Net
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.seeding import preserved, stream


class _Pass(nn.Module):
    """The pass of a model at a resolved point, as a module to trace."""

    def __init__(self, model: Tunable, net: Net, at: Resolved) -> None:
        super().__init__()
        self.net = net
        self._call = (model.method, at)

    def forward(self, x: Tensor) -> Tensor:
        method, at = self._call
        return method.read(self.net, x, at, lambda y, a: Output(self.net(y, a))).logits


class _Stage(nn.Module):
    """The part of a pass from one exit to the next, as a module to trace: features → (features, logits)."""

    def __init__(self, exits: Exits, net: Net, at: Resolved, number: int) -> None:
        super().__init__()
        self.net = net
        self._call = (exits, at, number)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        exits, at, number = self._call
        return exits.stage(self.net, x, at, number)


class FoldedExits(nn.Module):
    """A point with live exits: images (B, C, H, W) in [0, 1] → logits (B, K).

    Its stages are plain modules, features → (features, logits of the exit). A row leaves by the first exit whose
    uncertainty is below its threshold.
    """

    thresholds: Tensor

    def __init__(self, stages: list[nn.Module], thresholds: Tensor, measure: str) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.register_buffer("thresholds", thresholds)
        self.measure = measure

    def forward(self, x: Tensor) -> Tensor:
        return leave_early(x, list(self.stages), self.thresholds, self.measure).logits


@preserved(torch.device("cpu"))  # new layers draw initial weights, which are then replaced
def fold(model: Tunable, point: Point | None = None) -> nn.Module:
    """A plain module, images (B, C, H, W) in [0, 1] → logits (B, K), equal to `model.at(point)`.

    The result has no dials and does not depend on this package, except at a point with live exits, where the result
    is `FoldedExits`. ValueError if the point is not one fixed network: noise drawn in each pass, or a mixture of two
    passes.
    """
    point = model.complete(point)
    point.numbers()
    if model.method.randomised(point):
        raise ValueError(f"{point} draws noise in each pass; it does not fold")
    if model.method.passes(point) != 1:
        raise ValueError(f"{point} takes {model.method.passes(point)} passes of the network; it does not fold")
    net = copy.deepcopy(model.net)
    net.to_layout(torch.contiguous_format)
    device = next(net.parameters()).device
    image = torch.rand(2, *net.image, generator=stream("fold")).to(device)
    with torch.no_grad():
        at = model.resolve(point, image)
        folded = _in_stages(model, net, at, image) if model.method.live(point) else plain(_Pass(model, net, at), image)
        _check(folded, model, point, image)
    return folded


def _in_stages(model: Tunable, net: Net, at: Resolved, image: Tensor) -> FoldedExits:
    exits = model.method.part(Exits)
    assert isinstance(exits, Exits)
    stages: list[nn.Module] = []
    features = image
    for number in range(depth_of(at)):
        stages.append(plain(_Stage(exits, net, at, number), features))
        features = stages[-1](features)[0]
    return FoldedExits(stages, policy(net, depth_of(at)) * at.settings["exit"], exits.measure)


def foldable(model: Tunable, point: Point) -> nn.Module | None:
    """The folded module, or None if the point is not one fixed network."""
    point = model.complete(point)
    if model.method.randomised(point) or model.method.passes(point) != 1:
        return None
    return fold(model, point)


def _check(folded: nn.Module, model: Tunable, point: Point, image: Tensor) -> None:
    expected, found = model(image, point), folded(image)
    gap, room = (expected - found).abs().max(), 1e-5 * expected.abs().max().clamp_min(1)
    if not gap <= 10 * room:
        raise ValueError(f"folding {point} changed the logits by {float(gap):.2g}; not folded")
