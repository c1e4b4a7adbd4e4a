"""Masks on convolutions, with the running average of the *dense* gradient that guides regrowth.

FLOATS and the paths of SMART share this module; `rewiring` holds the rule by which masks change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rheostat.nn.layers import Parts, Seat, Transform
from rheostat.points.phase import Phase
from rheostat.points.resolved import Resolved

BETA = 0.9


@dataclass(frozen=True)
class PathChoice:
    """Selects the path of every seat for a whole pass: the second (adversarial) or the first (clean)."""

    second: bool


class _Masked(torch.autograd.Function):
    """weight · mask. The weight gets the masked (or dense) gradient, and the path records the dense gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, path: Path) -> Tensor:
        ctx.path = path
        return weight * path.mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        path: Path = ctx.path
        path.pending.add_(grad)
        return grad if path.dense_gradient else grad * path.mask, None


_masked: Callable[[Tensor, Path], Tensor] = _Masked.apply


class Path(nn.Module):
    """One mask over a convolution's weights, and the running average of its dense gradient.

    `mask` is 0/1 in the weight's dtype; `average` and `pending` (the gradient of the current step) are fp32. They are
    buffers, so they are saved, restored and moved with the model. With `dense_gradient`, masked weights also get
    gradients, and therefore momentum.
    """

    training_only = ("average",)
    least = 1
    mask: Tensor
    average: Tensor
    pending: Tensor

    def __init__(self, weight: Tensor, mask: Tensor, *, dense_gradient: bool = False) -> None:
        super().__init__()
        self.dense_gradient = dense_gradient
        self.register_buffer("mask", mask.to(weight.dtype))
        self.register_buffer("average", torch.zeros(weight.shape))
        self.register_buffer("pending", torch.zeros(weight.shape), persistent=False)

    def masked(self, weight: Tensor, at: Resolved, *, feeds: bool = True) -> Tensor:
        """The masked weight. Only training passes update the average; attacks do not.

        With `feeds` False this product does not update it either.
        """
        if not feeds or at.phase is not Phase.TRAIN or not torch.is_grad_enabled():
            return weight * self.mask
        return _masked(weight, self)

    @torch.no_grad()
    def settle(self) -> None:
        """After a step: add the gradient, summed over all ranks, to the average."""
        if dist.is_initialized():
            dist.all_reduce(self.pending)
        self.average.mul_(BETA).add_(self.pending, alpha=1 - BETA)
        self.pending.zero_()

    @property
    def nonzeros(self) -> int:
        """Number of active weights."""
        return int(self.mask.sum())

    def units(self) -> Tensor:
        """(U,) bool: the active units. Units are what is dropped and regrown; here single weights."""
        return self.mask.flatten().bool()

    def switch(self, units: Tensor) -> None:
        """Set the active units."""
        self.mask.copy_(units.view_as(self.mask))

    def size(self, values: Tensor) -> Tensor:
        """(U,) mean magnitude of each unit's entries in a tensor of the weight's shape."""
        return values.flatten().abs()


class ChannelPath(Path):
    """A path whose units are the channels that a convolution reads: whole slices of its kernel."""

    least = 2

    def units(self) -> Tensor:
        return self.mask[0, :, 0, 0].bool()

    def switch(self, units: Tensor) -> None:
        self.mask.copy_(units[None, :, None, None].expand_as(self.mask))

    def size(self, values: Tensor) -> Tensor:
        return values.abs().mean((0, 2, 3))


class Masking(Transform):
    """One or two paths of a seat; with two, a `PathChoice` selects the path of a pass."""

    order = 20

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def path(self, number: int) -> Path:
        """The path with this index."""
        path = self.paths[number]
        assert isinstance(path, Path)
        return path

    def chosen(self, at: Resolved) -> Path:
        """The path of this pass."""
        return self.path(int(len(self.paths) > 1 and at.of(PathChoice).second))

    def mask(self, at: Resolved) -> Tensor:
        return self.chosen(at).mask

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        path = self.chosen(at)
        feeds = feeding(parts)
        return tuple((path.masked(w, at, feeds=f), amount) for (w, amount), f in zip(parts, feeds, strict=True))

    def union(self) -> Tensor:
        """The 0/1 mask of weights that at least one path uses."""
        return torch.stack([self.path(i).mask for i in range(len(self.paths))]).amax(0)


def feeding(parts: Parts) -> list[bool]:
    """Whether each part of a kernel contributes to the gradient of the whole kernel, summed over rows.

    A row's kernel is Σ factor·part. A part with factor 1 already receives the whole gradient; other parts (noise,
    scaled by each row's λ) would add a fraction of it again. If every part has a factor (two ends, 1-λ and λ), the
    factors of a row sum to 1, so the parts' gradients sum to that of the kernel.
    """
    whole = [amount is None for _, amount in parts]
    return whole if any(whole) else [True] * len(parts)


def active(seat: Seat, at: Resolved) -> Tensor | None:
    """The 0/1 mask over a seat's weight in this pass, or None if the weight is dense."""
    shape = seat.weight.shape
    masks = [t.mask(at) for t in seat.transforms if isinstance(t, Transform)]
    found = [m.expand(shape) for m in masks if m is not None]
    return torch.stack(found).amin(0) if found else None


def places(total: int, density: float, *, without: Tensor | None, least: int = 1) -> int:
    """round(density·total), at least `least`, and at most the places that the 0/1 tensor `without` leaves free."""
    free = total if without is None else total - int(without.count_nonzero())
    return min(max(round(density * total), least), free)


def magnitude_mask(weight: Tensor, density: float, *, without: Tensor | None = None) -> Tensor:
    """A mask of the `places` largest |w|, chosen outside the mask `without` if it is given."""
    size = weight.detach().abs().flatten()
    if without is not None:
        size = size.masked_fill(without.flatten() != 0, -1.0)
    mask = torch.zeros(weight.shape)
    mask.view(-1)[size.topk(places(weight.numel(), density, without=without)).indices] = 1
    return mask


def random_mask(weight: Tensor, density: float, *, without: Tensor | None = None) -> Tensor:
    """A mask of exactly `places` random weights, chosen outside the mask `without` if it is given."""
    count = places(weight.numel(), density, without=without)
    order = torch.randperm(weight.numel())
    if without is not None:
        order = order[without.flatten()[order] == 0]
    mask = torch.zeros(weight.shape)
    mask.view(-1)[order[:count]] = 1
    return mask
