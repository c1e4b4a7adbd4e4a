"""Fold a point into a plain `nn.Module`: all conditioning becomes part of the weights.

Noise, masks and widths become plain weights, and norms become part of convolutions (`plain_layers`). The graph is
traced (torch.fx), so it folds exactly what the pass computes, and the result is checked against the pass.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from rheostat.methods.base import Output
from rheostat.methods.exits import ExitCommand, Exits, depth_of, leave_early, policy
from rheostat.models.plain_layers import DoesNotFold, plain
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

    def _read(self, x: Tensor) -> Output:
        method, at = self._call
        return method.read(self.net, x, at, lambda y, a: Output(self.net(y, a)))

    def forward(self, x: Tensor) -> Tensor:
        return self._read(x).logits


class _Stage(_Pass):
    """The part of a pass from one exit to the next: features → (features, logits)."""

    def __init__(self, model: Tunable, net: Net, at: Resolved, number: int) -> None:
        super().__init__(model, net, at.with_(ExitCommand(stage=number)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        found = self._read(x)
        assert found.features is not None
        return found.features, found.logits


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
def fold(model: Tunable, point: Point | None = None) -> fx.GraphModule | FoldedExits:
    """A plain module, images (B, C, H, W) in [0, 1] → logits (B, K), equal to `model.at(point)`.

    The result has no dials and does not depend on this package, except at a point with live exits, where the result
    is `FoldedExits`: there, a row whose uncertainty is within rounding of a threshold may leave by another exit.
    ValueError if a pass draws noise, is a mixture of two passes or cannot be traced, or if the exit policy is not
    fitted.
    """
    point = model.complete(point)
    point.numbers()
    if problem := _unfoldable(model, point):
        raise ValueError(f"{point} {problem}; it does not fold")
    net = copy.deepcopy(model.net)
    net.to_layout(torch.contiguous_format)
    device = next(net.parameters()).device
    image = torch.rand(2, *net.image, generator=stream("fold")).to(device)
    with torch.no_grad():
        at = model.resolve(point, image)
        if model.method.live(point):
            return _in_stages(model, net, at, image, point)
        folded = plain(_Pass(model, net, at), image)
        _check(folded(image), model(image, point), point)
    return folded


def foldable(model: Tunable, point: Point) -> fx.GraphModule | FoldedExits | None:
    """The folded module, or None for a point that `fold` refuses because of what its pass does."""
    point = model.complete(point)
    if _unfoldable(model, point):
        return None
    try:
        return fold(model, point)
    except DoesNotFold:
        return None


def _unfoldable(model: Tunable, point: Point) -> str:
    """Why a point does not fold, or nothing."""
    method = model.method
    if method.randomised(point):
        return "draws noise in each pass"
    if method.passes(point) != 1:
        return f"takes {method.passes(point)} passes of the network"
    if method.live(point) and method.part(Exits) is None:
        return "decides by the image which layers run"
    return ""


def _in_stages(model: Tunable, net: Net, at: Resolved, image: Tensor, point: Point) -> FoldedExits:
    """The folded stages of a point; each is checked on the features of the one before."""
    exits = model.method.part(Exits)
    assert isinstance(exits, Exits)
    thresholds = policy(net, depth_of(at)) * at.settings["exit"]
    stages: list[nn.Module] = []
    features = image
    for number in range(depth_of(at)):
        stages.append(plain(_Stage(model, net, at, number), features))
        expected = _Stage(model, model.net, at, number)(features.clone())
        found = stages[-1](features)
        for a, b in zip(found, expected, strict=True):
            _check(a, b, point)
        features = expected[0]
    return FoldedExits(stages, thresholds, exits.measure).eval()


def _check(found: Tensor, expected: Tensor, point: Point) -> None:
    gap, room = (expected - found).abs().max(), 1e-5 * expected.abs().max().clamp_min(1)
    if not gap <= 10 * room:
        # Not `DoesNotFold`: a caller must not run the pass unfolded and never say so.
        raise ValueError(f"folding {point} changed the outputs by {float(gap):.2g}; not folded")
