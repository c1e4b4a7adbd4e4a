"""The seats every network is made of: Conv, Dense, Norm, Normalise, Dropout.

A seat is called as `seat(x, at)` with `at` a `Resolved` point. Methods never subclass a seat: they
give it parts. A `Conv` or `Dense` holds a chain of weight transforms; a `Norm` holds a source of
normalisation statistics (one set, or a bank of sets) and a chain of modulations of its affine map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.points import Resolved

Parts = tuple[tuple[Tensor, Tensor | None], ...]
"""A kernel as a sum: weights, each with a per-setting amount (S,), or None for the amount 1."""


class Transform(nn.Module):
    """A part of a Conv or Dense seat: maps the seat's kernel before the product is taken."""

    def forward(self, parts: Parts, x: Tensor, at: Resolved) -> Parts:
        raise TypeError(f"{type(self).__name__} does not say how it transforms a kernel")


class Modulation(nn.Module):
    """A part of a Norm seat: maps its (S, C) scale and shift tables."""

    def forward(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{type(self).__name__} does not say how it modulates a norm")


def transformed(transforms: nn.ModuleList, weight: Tensor, x: Tensor, at: Resolved) -> Parts:
    """The kernel of a seat after its chain of transforms."""
    parts: Parts = ((weight, None),)
    for transform in transforms:
        parts = transform(parts, x, at)
    return parts


def _summed(parts: Parts, product: Callable[[Tensor], Tensor], at: Resolved) -> Tensor:
    total: Tensor | None = None
    for weight, amount in parts:
        term = product(weight)
        if amount is not None:
            rows = at.gather(amount)
            term = term * rows.reshape(-1, *[1] * (term.ndim - 1)).to(term.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total


class Conv(nn.Conv2d):
    """Convolution seat. `exact` keeps it in fp32 under autocast (the first layer, which sees δ)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = False,
        exact: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias
        )
        self.exact = exact
        self.transforms = nn.ModuleList()

    def forward(self, x: Tensor, at: Resolved) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) → (B, C', H', W'). Fewer channels may come in than the seat has (slimming)."""
        if self.exact and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._product(x.float(), at)
        return self._product(x, at)

    def _product(self, x: Tensor, at: Resolved) -> Tensor:
        if self.transforms:
            parts = at.once(self, lambda: transformed(self.transforms, self.weight, x, at))
        else:
            parts = ((self.weight, None),)
        groups = self.groups if self.groups == 1 else x.shape[1] * self.groups // self.in_channels

        def product(weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

        first, amount = parts[0]
        bias = None if self.bias is None else self.bias[: first.shape[0]]
        if len(parts) == 1 and amount is None:
            return product(first, bias)
        out = _summed(parts, product, at)
        return out if bias is None else out + bias[:, None, None]


class Dense(nn.Linear):
    """Fully connected seat; `head` marks the last one, whose outputs are the classes."""

    def __init__(self, in_features: int, out_features: int, *, head: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.head = head
        self.transforms = nn.ModuleList()

    def forward(self, x: Tensor, at: Resolved) -> Tensor:  # type: ignore[override]
        """(B, F) → (B, F')."""
        if not self.transforms:
            return F.linear(x, self.weight, self.bias)
        parts = at.once(self, lambda: transformed(self.transforms, self.weight, x, at))
        out = _summed(parts, lambda w: F.linear(x, w), at)
        return out + self.bias[: out.shape[1]]


class Source(nn.Module):
    """Where a Norm takes its statistics and affine from: one set, or a bank that chooses sets."""

    def pick(self, at: Resolved) -> NormSet:
        """Training: the one set this group of rows is normalised by and updates."""
        raise TypeError(f"{type(self).__name__} does not choose a norm set")

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        """Eval: (S, C) scale and shift of the affine map that the norm is."""
        raise TypeError(f"{type(self).__name__} has no table")


class NormSet(Source):
    """One set of batch-norm statistics and affine parameters (C channels)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def copy(self) -> NormSet:
        """A new set that starts with the same values."""
        twin = NormSet(self.channels, eps=self.eps, momentum=self.momentum)
        twin.load_state_dict(self.state_dict())
        return twin

    def pick(self, at: Resolved) -> NormSet:
        return self

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale[None], (self.bias - self.running_mean * scale)[None]

    def normalise(self, x: Tensor, at: Resolved, affine: bool) -> Tensor:
        """Normalise by the statistics of these rows (of all ranks) and update the running ones."""
        weight, bias = (self.weight, self.bias) if affine else (None, None)
        if not at.across:
            if x.shape[0] == 0:
                return x
            return F.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, True, self.momentum, self.eps
            )
        out = self._normalise_across(x)
        return out if weight is None or bias is None else affine_map(out, weight[None], bias[None])

    def _normalise_across(self, x: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce  # differentiable sum over ranks

        count = torch.full((1,), x.numel() / max(x.shape[1], 1), device=x.device, dtype=x.dtype)
        dist.all_reduce(count)
        total = float(count)
        if total == 0:
            return x
        mean = all_reduce(x.sum((0, 2, 3))) / total  # type: ignore[no-untyped-call]
        centred = x - mean[:, None, None]
        var = all_reduce(centred.square().sum((0, 2, 3))) / total  # type: ignore[no-untyped-call]
        with torch.no_grad():
            unbiased = var * (total / max(total - 1, 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return centred * torch.rsqrt(var + self.eps)[:, None, None]


def affine_map(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x·scale + shift per channel; scale and shift (1, C) or (B, C). One operator."""
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class Norm(nn.Module):
    """Normalisation seat. `conditioned` is False where FiLM does not go (shortcuts, last WRN norm)."""

    def __init__(self, channels: int, *, conditioned: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.conditioned = conditioned
        self.source: Source = NormSet(channels)
        self.modulations = nn.ModuleList()

    def modulated(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        """The affine after the seat's modulations."""
        for modulation in self.modulations:
            scale, shift = modulation(scale, shift, at)
        return scale, shift

    def table(self, at: Resolved) -> tuple[Tensor, Tensor]:
        """Eval: the whole seat as (S, C) scale and shift."""
        scale, shift = self.source.table(at)
        return self.modulated(scale, shift, at)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        """(B, C, H, W) → the same shape; computed in fp32, returned in the dtype that came in."""
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        if at.training:
            chosen = self.source.pick(at)
            wide = chosen.normalise(wide, at, affine=not self.modulations)
            if not self.modulations:
                return wide.to(x.dtype)
            scale, shift = self.modulated(chosen.weight[None], chosen.bias[None], at)
        else:
            scale, shift = at.once(self, lambda: self.table(at))
        if scale.shape[0] > 1 or at.rows is None:
            scale, shift = at.gather(scale), at.gather(shift)
        return affine_map(wide, scale, shift).to(x.dtype)


class Normalise(nn.Module):
    """Pixels in [0, 1] → zero mean, unit deviation per channel; inside the network, fp32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Dropout(nn.Module):
    """Dropout that follows the pass (`at.training`), not module state. Draws from torch's generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate must be in [0, 1), given {rate}")
        self.rate = rate

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        return F.dropout(x, self.rate, at.training) if self.rate else x


S = TypeVar("S", bound=nn.Module)


def seats(net: nn.Module, kind: type[S]) -> Iterator[S]:
    """The seats of one kind, in the order of the network."""
    return (module for module in net.modules() if isinstance(module, kind))
