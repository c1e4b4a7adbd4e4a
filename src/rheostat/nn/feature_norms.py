"""Norm seats without batch statistics: layer and group normalisation, whose affine parts methods bank and modulate.

An image is normalised by its own features alone, so that training and evaluation compute the same; what a norm
bank holds is sets of scales and shifts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.nn.norms import AffineSet, Norm, affine_map, widened
from rheostat.points.resolved import Resolved


class FeatureNorm(Norm):
    """A norm seat whose sources are affine sets; subclasses normalise."""

    def __init__(self, channels: int, *, eps: float = 1e-5, conditioned: bool = True) -> None:
        super().__init__(channels, conditioned=conditioned)
        self.eps = eps
        self.source = AffineSet(channels)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


class LayerNorm(FeatureNorm):
    """Normalises each position over the last dimension: (B, ..., C) → the same shape."""

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        scale, shift = self.affine(at)
        shape = scale.shape[1:]
        if scale.shape[0] == 1:
            return F.layer_norm(widened(x), shape, scale[0], shift[0], self.eps).to(x.dtype)
        between = [1] * (x.ndim - 2)
        rows = (scale.shape[0], *between, *shape)
        normal = F.layer_norm(widened(x), shape, eps=self.eps)
        return torch.addcmul(shift.reshape(rows), normal, scale.reshape(rows)).to(x.dtype)


class GroupNorm(FeatureNorm):
    """Normalises groups of channels over the whole image: (B, C, H, W) → the same shape.

    Fewer channels may come in than the seat has (slimming): then there are fewer groups of the same size. ValueError
    where a group would be cut.
    """

    def __init__(self, channels: int, groups: int, *, eps: float = 1e-5, conditioned: bool = True) -> None:
        super().__init__(channels, eps=eps, conditioned=conditioned)
        self.groups = groups

    def extra_repr(self) -> str:
        return f"{self.groups}, {super().extra_repr()}"

    def groups_of(self, channels: int) -> int:
        """How many groups so many leading channels make."""
        size = self.channels // self.groups
        if channels % size:
            raise ValueError(f"{channels} channels cut a group of a GroupNorm, whose groups have {size} channels")
        return channels // size

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        scale, shift = self.affine(at)
        groups = self.groups_of(scale.shape[1])
        if scale.shape[0] == 1:
            return F.group_norm(widened(x), groups, scale[0], shift[0], self.eps).to(x.dtype)
        return affine_map(F.group_norm(widened(x), groups, eps=self.eps), scale, shift).to(x.dtype)
