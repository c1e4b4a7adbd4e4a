"""MobileNetV2 (Sandler et al. 2018) with the CIFAR stem: stride 1, 17 inverted residual blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rheostat.nets.base import Block, Classifier, ConvBlock, Inner, Net, check_image, check_size, normaliser, register
from rheostat.nets.pieces import Activate, Features, Head, Normed
from rheostat.nets.residual import Shortcut, initialise
from rheostat.nn.layers import Conv, normed
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved

# expansion, output channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(Block):
    """1×1 expansion, 3×3 depthwise, linear 1×1; a shortcut if the stride is 1."""

    def __init__(self, inside: int, outside: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inside
        self.conv1 = Conv(inside, hidden, kernel_size=1)
        self.norm1 = Norm(hidden)
        self.conv2 = Conv(hidden, hidden, stride=stride, padding=1, groups=hidden)
        self.norm2 = Norm(hidden)
        self.conv3 = Conv(hidden, outside, kernel_size=1)
        self.norm3 = Norm(outside)
        self.adds = stride == 1
        self.shortcut = Shortcut(inside, outside, 1) if stride == 1 and inside != outside else None

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out = F.relu_(normed(self.conv1, self.norm1, x, at))
        out = F.relu_(normed(self.conv2, self.norm2, out, at))
        out = normed(self.conv3, self.norm3, out, at)
        if not self.adds:
            return out
        return out + (x if self.shortcut is None else self.shortcut(x, at))

    def inner(self) -> list[Inner]:
        return [Inner((self.conv1, self.conv2), (self.norm1, self.norm2), self.conv3)]


def mobilenet_head(net: Net, features: Features, number: int) -> Head:
    """Exit 1: two inverted residual blocks of stride 2; exit 2: one; later exits: only the classifier."""
    c = features.channels
    if number == 0:
        pieces: list[Block] = [
            InvertedResidual(c, 2 * c, expansion=6, stride=2),
            Activate(2 * c),
            InvertedResidual(2 * c, 4 * c, expansion=6, stride=2),
            Normed(4 * c),
        ]
        return Head(pieces, Classifier(4 * c, net.classes))
    if number == 1:
        return Head([InvertedResidual(c, c, expansion=6, stride=2)], Classifier(c, net.classes))
    return Head([], Classifier(c, net.classes))


@register(exit_positions=lambda net: (1, 4, 7, 9, 12, 15), paper_head=mobilenet_head)
def mobilenet_v2(
    *,
    width: float = 1.0,
    classes: int = 10,
    image: tuple[int, int, int] = (3, 32, 32),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Net:
    """MobileNetV2 for small images; `width` multiplies the channels (multiples of 8, at least 8).

    If a block keeps the resolution and changes the number of channels, its shortcut is a 1×1 convolution with a norm,
    as in the CIFAR variants that the RDI-Nets paper builds on.
    """
    channels, *_ = check_image("mobilenet_v2", image, 8)
    check_size("mobilenet_v2", width=width, classes=classes)

    def scaled(count: int) -> int:
        return count if width == 1.0 else max(8, round(count * width / 8) * 8)

    inside = scaled(32)
    blocks: list[Block] = [ConvBlock(Conv(channels, inside, padding=1, exact=True), Norm(inside))]
    for expansion, out, count, stride in STAGES:
        for i in range(count):
            blocks.append(InvertedResidual(inside, scaled(out), expansion=expansion, stride=stride if i == 0 else 1))
            inside = scaled(out)
    last = scaled(1280)
    blocks.append(ConvBlock(Conv(inside, last, kernel_size=1), Norm(last)))
    initialise(blocks)
    return Net(
        blocks,
        Classifier(last, classes),
        image=(channels, *image[1:]),
        classes=classes,
        normalise=normaliser(channels, mean, std),
        stages=(1, *(count for _, _, count, _ in STAGES), 1),
    )
