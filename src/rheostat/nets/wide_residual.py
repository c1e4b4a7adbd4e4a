"""Wide residual networks (Zagoruyko & Komodakis 2016): pre-activation blocks, dropout inside."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rheostat.nets.base import Block, Classifier, ConvBlock, Inner, Net, check_image, check_size, normaliser, register
from rheostat.nets.residual import initialise, residual_head
from rheostat.nn.layers import Conv, Dropout, normed
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved


class WideBlock(Block):
    """Norm, ReLU, conv, norm, ReLU, dropout, conv, and a shortcut: a 1×1 convolution if the width changes."""

    def __init__(self, inside: int, outside: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = Norm(inside)
        self.conv1 = Conv(inside, outside, stride=stride, padding=1)
        self.norm2 = Norm(outside)
        self.dropout = Dropout(dropout)
        self.conv2 = Conv(outside, outside, padding=1)
        changes = stride != 1 or inside != outside
        self.shortcut = Conv(inside, outside, kernel_size=1, stride=stride) if changes else None

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        active = F.relu_(self.norm1(x, at))
        out = F.relu_(normed(self.conv1, self.norm2, active, at))
        out = self.conv2(self.dropout(out, at), at)
        # If the shape changes, the shortcut starts from the activated input too.
        return out + (x if self.shortcut is None else self.shortcut(active, at))

    def inner(self) -> list[Inner]:
        return [Inner((self.conv1,), (self.norm2,), self.conv2)]


@register(paper_head=residual_head, preactivated=True)
def wide_resnet(
    *,
    depth: int = 16,
    widen: int = 8,
    base_width: int = 16,
    dropout: float = 0.0,
    classes: int = 10,
    image: tuple[int, int, int] = (3, 32, 32),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    initialisation: str = "he",
) -> Net:
    """WRN-depth-widen, depth = 6n + 4 (16-8, 40-2, 28-10 in the papers); images of at least 8×8.

    `initialisation` of the convolutions: "he", or torch's "default", as in `resnet`.
    """
    channels, *_ = check_image("wide_resnet", image, 8)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"wide_resnet: depth must be 6n + 4 (10, 16, 22, 28, 34, 40), given {depth}")
    check_size("wide_resnet", widen=widen, base_width=base_width, classes=classes)
    count = (depth - 4) // 6
    blocks: list[Block] = [ConvBlock(Conv(channels, base_width, padding=1, exact=True), None, activation=None)]
    inside = base_width
    for stage in range(3):
        outside = base_width * widen * 2**stage
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            blocks.append(WideBlock(inside, outside, stride=stride, dropout=dropout))
            inside = outside
    initialise(blocks, initialisation)
    return Net(
        blocks,
        Classifier(inside, classes, norm=Norm(inside, conditioned=False)),
        image=(channels, *image[1:]),
        classes=classes,
        normalise=normaliser(channels, mean, std),
        stages=(1, count, count, count),
    )
