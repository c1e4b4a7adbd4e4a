"""Exits of a network: where they sit and what their heads are, by family.

`paper` heads and positions are those of RDI-Nets (Hu et al., ICLR 2020, appendix). Its first heads cost
nearly as much as what an early exit saves; `light` ones, ours, pool first and take one convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.nets.base import Block, ConvBlock, FlatClassifier, Net
from rheostat.nets.base import Classifier as Pooled
from rheostat.nets.mobilenet import InvertedResidual
from rheostat.nets.residual import BasicBlock, initialise
from rheostat.nn.layers import Conv
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved

HEADS = ("paper", "light")
SMALL = 7
"""Light heads pool until no side is longer."""


class Head(nn.Module):
    """An exit's own layers: pieces in turn, then a classifier. (B, C, H, W) → (B, classes)."""

    def __init__(self, pieces: list[Block], classifier: nn.Module) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(pieces)
        self.classifier = classifier

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        for piece in self.pieces:
            x = piece(x, at)
        logits: Tensor = self.classifier(x, at)
        return logits.float()


class Pool(Block):
    """Max-pooling by 2, some times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        for _ in range(self.times):
            x = F.max_pool2d(x, 2)
        return x


class Activate(Block):
    """Norm and ReLU: before a head on features that are not yet activated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        return F.relu_(self.norm(x, at))


@dataclass(frozen=True)
class Place:
    """The features after one block: (C, H, W), and how many halvings of the resolution follow."""

    block: int
    channels: int
    height: int
    width: int
    left: int
    stage: int


def places(net: Net) -> list[Place]:
    """What each block of a network yields; by one pass, before any method is installed."""
    at = Resolved()
    with torch.no_grad():
        shapes = [f.shape[1:] for f in net.features(torch.zeros(1, *net.image), at)]
    stages = [s for s, count in enumerate(net.stages) for _ in range(count)]
    sizes = [h for _, h, _ in shapes]
    return [Place(i, c, h, w, len({s for s in sizes[i:] if s < h}), stages[i]) for i, (c, h, w) in enumerate(shapes)]


def default_positions(net: Net) -> tuple[int, ...]:
    """The paper's rule: blocks n/4 and 3n/4 of each residual stage of n; MobileNetV2's and SmallCNN's own."""
    family = str(net.spec.get("name"))
    last = len(net.blocks) - 1
    if family == "small_cnn":
        return (0, 2)
    if family == "mobilenet_v2":
        return (1, 4, 7, 9, 12, 15)
    found, first = [], net.stages[0]
    for count in net.stages[1:]:
        found += [first + count // 4, first + 3 * count // 4]
        first += count
    return tuple(sorted({b for b in found if b < last}))


def _fully_connected(features: int, classes: int, *, plain: bool) -> nn.Module:
    return FlatClassifier(features, (200, 200), classes, relu=not plain)


def _small_cnn_paper(place: Place, number: int, classes: int, padded: bool) -> Head:
    """Exit 1: 3×3 stride 2 to half the channels, pool, FC; later ones: pool, FC. No ReLU between FCs."""
    c, h, w = place.channels, place.height, place.width
    pieces: list[Block] = []
    if number == 0:
        out, pad = c // 2, int(padded)
        conv = Conv(c, out, stride=2, padding=pad, bias=not padded)
        pieces.append(ConvBlock(conv, Norm(out) if padded else None))
        c, h, w = out, (h + 2 * pad - 3) // 2 + 1, (w + 2 * pad - 3) // 2 + 1
    pieces.append(Pool(1))
    return Head(pieces, _fully_connected(c * (h // 2) * (w // 2), classes, plain=True))


def _mobilenet_paper(place: Place, number: int, classes: int) -> Head:
    c = place.channels
    if number == 0:
        pieces: list[Block] = [
            InvertedResidual(c, 2 * c, expansion=6, stride=2),
            Activate(2 * c),
            InvertedResidual(2 * c, 4 * c, expansion=6, stride=2),
            _Normed(4 * c),
        ]
        return Head(pieces, Pooled(4 * c, classes))
    if number == 1:
        return Head([InvertedResidual(c, c, expansion=6, stride=2)], Pooled(c, classes))
    return Head([], Pooled(c, classes))


class _Normed(Block):
    """A norm alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out: Tensor = self.norm(x, at)
        return out


def _residual_paper(place: Place, classes: int) -> Head:
    """By the halvings that follow: two or more, one, none (the paper's stages 1, 2, 3)."""
    c = place.channels
    if place.left >= 2:
        pieces: list[Block] = [
            Pool(1),
            ConvBlock(Conv(c, 4 * c, kernel_size=5, padding=2), Norm(4 * c), pool=True),
            ConvBlock(Conv(4 * c, 2 * c, padding=1), Norm(2 * c), relu=False),
        ]
        return Head(pieces, Pooled(2 * c, classes))
    if place.left == 1:
        return Head([Pool(1), BasicBlock(c, c)], Pooled(c, classes))
    return Head([], Pooled(c, classes))


def _light(place: Place, classes: int, *, normed: bool) -> Head:
    """Pool to at most 7×7, one 3×3 convolution, pool, FC; at the last resolution FC alone.

    The convolution doubles the channels in early stages, where features are poor.
    """
    if place.left == 0 and normed:
        return Head([], Pooled(place.channels, classes))
    times, side = 0, max(place.height, place.width)
    while side > SMALL:
        times, side = times + 1, side // 2
    out = place.channels * (2 if place.left >= 2 else 1)
    norm = Norm(out) if normed else None
    conv = Conv(place.channels, out, padding=1, bias=norm is None)
    return Head([Pool(times), ConvBlock(conv, norm)], Pooled(out, classes))


def exits_of(net: Net, positions: tuple[int, ...], heads: str) -> list[Head]:
    """The heads of a network's exits after the given blocks; ValueError on what cannot be."""
    if not net.blocks:
        raise ValueError("exits need a network that yields features; an adopted one does not")
    known = places(net)
    last = len(known) - 1
    for position in positions:
        if not 0 <= position < last:
            raise ValueError(f"exits: no block {position} before the last; allowed: 0 to {last - 1}")
    family = str(net.spec.get("name"))
    normed = any(isinstance(m, Norm) for m in net.modules())
    out = []
    for number, position in enumerate(positions):
        place = known[position]
        if heads == "light":
            head = _light(place, net.classes, normed=normed)
        elif family == "small_cnn":
            head = _small_cnn_paper(place, number, net.classes, normed)
        elif family == "mobilenet_v2":
            head = _mobilenet_paper(place, number, net.classes)
        else:
            head = _residual_paper(place, net.classes)
        if family == "wide_resnet":
            head.pieces.insert(0, Activate(place.channels))
        for norm in head.modules():
            if isinstance(norm, Norm):
                norm.conditioned = False  # what comes in is conditioned already
        initialise(list(head.pieces))  # type: ignore[arg-type]
        out.append(head)
    return out
