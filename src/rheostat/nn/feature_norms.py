"""Norm seats without batch statistics: layer and group normalisation, with affine parts that methods condition.

They normalise each image by its own features only, so training and evaluation compute the same. A norm bank then
holds sets of scales and shifts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.nn.affine import affine_map, widened
from rheostat.nn.norms import AffineSet, Norm
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

    The input may have fewer channels than the seat (slimming): then there are fewer groups of the same size.
    ValueError if that would cut a group.
    """

    def __init__(self, channels: int, groups: int, *, eps: float = 1e-5, conditioned: bool = True) -> None:
        super().__init__(channels, eps=eps, conditioned=conditioned)
        self.groups = groups

    def extra_repr(self) -> str:
        return f"{self.groups}, {super().extra_repr()}"

    def groups_of(self, channels: int) -> int:
        """The number of groups that `channels` leading channels form; ValueError if they cut a group."""
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
