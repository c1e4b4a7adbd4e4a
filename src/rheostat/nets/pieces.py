"""The parts of a network's exits: the features they start from, and the layers of their heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.nets.base import Block
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved


class Head(nn.Module):
    """The layers of an exit: `pieces` in order, then a classifier. (B, C, H, W) → (B, classes)."""

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
    """Max-pooling by 2, repeated `times` times."""

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


class Normed(Block):
    """A norm alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        out: Tensor = self.norm(x, at)
        return out


@dataclass(frozen=True)
class Features:
    """The features after one block: (C, H, W), and the number of later halvings of the resolution."""

    channels: int
    height: int
    width: int
    left: int
