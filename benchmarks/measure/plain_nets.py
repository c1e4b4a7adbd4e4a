"""Residual networks in plain PyTorch layers, as anybody would write them: what our steps are timed against."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = {8: (1, 1, 1), 20: (3, 3, 3), 18: (2, 2, 2, 2)}


class Block(nn.Module):
    """Two 3×3 convolutions with batch norms, and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x), inplace=True)


def plain_resnet(depth: int, base_width: int, channels: int = 3) -> nn.Sequential:
    """The layers of `rheostat.nets.resnet` without conditioning: images (B, C, H, W) → logits (B, 10)."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, base_width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(base_width),
        nn.ReLU(inplace=True),
    ]
    inside = base_width
    for stage, count in enumerate(STAGES[depth]):
        for number in range(count):
            wide = base_width * 2**stage
            layers.append(Block(inside, wide, 2 if stage and not number else 1))
            inside = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))
