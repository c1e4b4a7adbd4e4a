"""Residual networks: the CIFAR family (He et al. 2016, §4.2) and ResNet-18/34/50 with a 3×3 stem."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.nets.base import (
    Activation,
    Block,
    Classifier,
    ConvBlock,
    Inner,
    Net,
    check_image,
    check_size,
    normaliser,
    register,
)
from rheostat.nets.pieces import Features, Head, Pool
from rheostat.nn.layers import Conv, normed
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

CIFAR_DEPTHS = (8, 14, 20, 32, 38, 56, 74, 110)
IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
ACTIVATIONS: Mapping[str, Activation] = {"relu": F.relu_, "silu": F.silu}


class Shortcut(nn.Module):
    """1×1 convolution and norm for a block that changes the shape. FiLM does not condition it."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv = Conv(inside, outside, kernel_size=1, stride=stride)
        self.norm = Norm(outside, conditioned=False)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out: Tensor = normed(self.conv, self.norm, x, at)
        return out


class BasicBlock(Block):
    """Two 3×3 convolutions with norms, and a shortcut."""

    def __init__(self, inside: int, outside: int, *, stride: int = 1, activation: Activation = F.relu_) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = Conv(inside, outside, stride=stride, padding=1)
        self.norm1 = Norm(outside)
        self.conv2 = Conv(outside, outside, padding=1)
        self.norm2 = Norm(outside)
        changes = stride != 1 or inside != outside
        self.shortcut = Shortcut(inside, outside, stride) if changes else None

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out = self.activation(normed(self.conv1, self.norm1, x, at))
        out = normed(self.conv2, self.norm2, out, at)
        return self.activation(out.add_(x if self.shortcut is None else self.shortcut(x, at)))

    def inner(self) -> list[Inner]:
        return [Inner((self.conv1,), (self.norm1,), self.conv2)]


class Bottleneck(Block):
    """1×1, 3×3, 1×1 convolutions with norms, and a shortcut; input and output are four times as wide as the inside."""

    def __init__(self, inside: int, width: int, *, stride: int = 1, activation: Activation = F.relu_) -> None:
        super().__init__()
        self.activation = activation
        outside = 4 * width
        self.conv1 = Conv(inside, width, kernel_size=1)
        self.norm1 = Norm(width)
        self.conv2 = Conv(width, width, stride=stride, padding=1)
        self.norm2 = Norm(width)
        self.conv3 = Conv(width, outside, kernel_size=1)
        self.norm3 = Norm(outside)
        changes = stride != 1 or inside != outside
        self.shortcut = Shortcut(inside, outside, stride) if changes else None

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out = self.activation(normed(self.conv1, self.norm1, x, at))
        out = self.activation(normed(self.conv2, self.norm2, out, at))
        out = normed(self.conv3, self.norm3, out, at)
        return self.activation(out.add_(x if self.shortcut is None else self.shortcut(x, at)))

    def inner(self) -> list[Inner]:
        return [Inner((self.conv1,), (self.norm1,), self.conv2), Inner((self.conv2,), (self.norm2,), self.conv3)]


def activation_of(net: Net) -> Activation:
    """The activation of a network that has it as an option, else ReLU."""
    return ACTIVATIONS.get(str(getattr(net, "spec", {}).get("activation")), F.relu_)


def residual_head(net: Net, features: Features, number: int) -> Head:
    """The layers of an exit by the number of later halvings: two or more, one, none (the paper's stages 1, 2, 3)."""
    c, active = features.channels, activation_of(net)
    if features.left >= 2:
        pieces: list[Block] = [
            Pool(1),
            ConvBlock(Conv(c, 4 * c, kernel_size=5, padding=2), Norm(4 * c), activation=active, pool=True),
            ConvBlock(Conv(4 * c, 2 * c, padding=1), Norm(2 * c), activation=None),
        ]
        return Head(pieces, Classifier(2 * c, net.classes))
    if features.left == 1:
        return Head([Pool(1), BasicBlock(c, c, activation=active)], Classifier(c, net.classes))
    return Head([], Classifier(c, net.classes))


@register(paper_head=residual_head)
def resnet(
    *,
    depth: int = 20,
    base_width: int | None = None,
    classes: int = 10,
    image: tuple[int, int, int] = (3, 32, 32),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    initialisation: str = "he",
    activation: str = "relu",
) -> Net:
    """ResNet of depth 8, 14, 20, 32, 38, 56, 74, 110 (three stages, base width 16) or 18, 34, 50.

    The latter have four stages, base width 64 and a 3×3 stride-1 stem without pooling. Any image of
    at least 8×8 pixels. `initialisation` "he", or torch's "default" (see `initialise`). `activation` "relu", or
    "silu", which is smooth (Xie et al. 2020, "Smooth Adversarial Training": better gradients for attacks in training).
    """
    channels, *_ = check_image("resnet", image, 8)
    if depth in CIFAR_DEPTHS:
        per_stage: tuple[int, ...] = ((depth - 2) // 6,) * 3
        width = 16 if base_width is None else base_width
    elif depth in IMAGENET_BLOCKS:
        per_stage = IMAGENET_BLOCKS[depth]
        width = 64 if base_width is None else base_width
    else:
        allowed = ", ".join(str(d) for d in sorted((*CIFAR_DEPTHS, *IMAGENET_BLOCKS)))
        raise ValueError(f"resnet has no depth {depth}; allowed: {allowed}")
    check_size("resnet", base_width=width, classes=classes)
    check_choice("resnet", "activation", activation, ACTIVATIONS)
    active = ACTIVATIONS[activation]
    stem = ConvBlock(Conv(channels, width, padding=1, exact=True), Norm(width), activation=active)
    blocks: list[Block] = [stem]
    inside = width
    for stage, count in enumerate(per_stage):
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            wide = width * 2**stage
            if depth == 50:
                blocks.append(Bottleneck(inside, wide, stride=stride, activation=active))
                inside = 4 * wide
            else:
                blocks.append(BasicBlock(inside, wide, stride=stride, activation=active))
                inside = wide
    initialise(blocks, initialisation)
    return Net(
        blocks,
        Classifier(inside, classes),
        image=(channels, *image[1:]),
        classes=classes,
        normalise=normaliser(channels, mean, std),
        stages=(1, *per_stage),
    )


INITIALISATIONS = ("he", "default")


def initialise(blocks: list[Block], initialisation: str = "he") -> None:
    """Initialise the convolutions: "he" (normal, fan out), or leave them at torch's "default".

    FLOAT's public network uses the default (uniform, variance 1 / (3·fan in)); the standard deviation of "he" is √6 =
    2.45 times as large if fan in equals fan out.
    """
    check_choice("a residual network", "initialisation", initialisation, INITIALISATIONS)
    if initialisation == "default":
        return
    for block in blocks:
        for module in block.modules():
            if isinstance(module, Conv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
