"""The Norm seat: a source of statistics (one set, or a bank of sets) and modulations of its affine map.

In eval a whole seat, with all its parts, is one affine map per channel and setting; in training it is one
normalisation and one affine map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.nn.affine import affine_map, row_norm, widened
from rheostat.points.resolved import Resolved


class Modulation(nn.Module):
    """A part of a Norm seat that transforms its scale and shift tables, (S, C) each."""

    def forward(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{type(self).__name__} does not say how it modulates a norm")


@dataclass(frozen=True)
class NormChoice:
    """Selects the set of every norm bank for a whole pass: the adversarial or the clean one."""

    adversarial: bool


class Source(nn.Module):
    """Provides a Norm's statistics and affine map: one set, or a bank that chooses among sets."""

    def pick(self, at: Resolved) -> AffineSet:
        """Training: the set that normalises these rows and that they update."""
        raise TypeError(f"{type(self).__name__} does not choose a norm set")

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        """Eval: the norm as an affine map, scale and shift (S, C)."""
        raise TypeError(f"{type(self).__name__} has no table")

    def resized(self, channels: int) -> Source:
        """A new source of the same kind for the leading channels."""
        raise TypeError(f"{type(self).__name__} cannot be resized")


class AffineSet(Source):
    """One set of affine parameters (C channels), for norms without batch statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def copy(self) -> Self:
        """A new set with the same initial values, which trains if this one does."""
        twin = self.resized(self.channels)
        twin.take(self)
        return twin

    def take(self, other: AffineSet) -> None:
        """Take over another set's values, and whether it trains."""
        self.load_state_dict(other.state_dict())
        for mine, own in zip(other.parameters(), self.parameters(), strict=True):
            own.requires_grad_(mine.requires_grad)

    def resized(self, channels: int) -> Self:
        return type(self)(channels)

    def pick(self, at: Resolved) -> AffineSet:
        return self

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        return self.weight[None], self.bias[None]


class NormSet(AffineSet):
    """One set of batch-norm statistics and affine parameters (C channels)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels)
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def resized(self, channels: int) -> Self:
        return type(self)(channels, eps=self.eps, momentum=self.momentum)

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale[None], (self.bias - self.running_mean * scale)[None]

    def normalise(self, x: Tensor, scale: Tensor, shift: Tensor, at: Resolved) -> Tensor:
        """Normalise by the statistics of these rows over all ranks, update the running ones, and apply the affine map.

        scale and shift are (1, C) or (B, C). It computes in fp32 and returns the dtype of x.
        """
        if at.across:
            return affine_map(self._normalise_across(widened(x)), scale, shift).to(x.dtype)
        buffers = self.running_mean, self.running_var
        if x.shape[0] == 0:
            return x
        if scale.shape[0] == 1:
            return F.batch_norm(x, *buffers, scale[0], shift[0], True, self.momentum, self.eps)
        return row_norm(x, scale, shift, *buffers, self.momentum, self.eps)

    def _normalise_across(self, x: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce  # differentiable sum over ranks

        count = torch.full((1,), x.numel() / max(x.shape[1], 1), device=x.device, dtype=x.dtype)
        dist.all_reduce(count)
        total = float(count)
        if total == 0:
            return x
        mean = all_reduce(x.sum((0, 2, 3))) / total
        centred = x - mean[:, None, None]
        var = all_reduce(centred.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            unbiased = var * (total / max(total - 1, 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return centred * torch.rsqrt(var + self.eps)[:, None, None]


class Norm(nn.Module):
    """Batch normalisation seat, and the base class of the seats in `feature_norms`.

    `conditioned` is False for norms that FiLM skips (shortcuts, the last norm of a WRN).
    """

    def __init__(self, channels: int, *, conditioned: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.conditioned = conditioned
        self.source: Source = NormSet(channels)
        self.modulations = nn.ModuleList()

    def modulated(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        """The affine map after the seat's modulations."""
        for modulation in self.modulations:
            scale, shift = modulation(scale, shift, at)
        return scale, shift

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        """Eval: the whole seat as scale and shift, (S, C) each."""
        scale, shift = self.source.table(at)
        return self.modulated(scale, shift, at)

    def settings(self, at: Resolved) -> tuple[Tensor, Tensor]:
        """Scale and shift of each setting of this pass, (S, C)."""
        if at.training:
            chosen = self.source.pick(at)
            return self.modulated(chosen.weight[None], chosen.bias[None], at)
        return at.once(self, lambda: self.table(at))

    def affine(self, at: Resolved) -> tuple[Tensor, Tensor]:
        """Scale and shift of this pass: (1, C), or (B, C) if the rows differ."""
        scale, shift = self.settings(at)
        return (scale, shift) if scale.shape[0] == 1 else (at.gather(scale), at.gather(shift))

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        """(B, C, H, W) → the same shape; computed in fp32, returned in the dtype of x."""
        scale, shift = self.affine(at)
        if at.training:
            chosen = self.source.pick(at)
            assert isinstance(chosen, NormSet)
            return chosen.normalise(x, scale, shift, at)
        return affine_map(x, scale, shift)
