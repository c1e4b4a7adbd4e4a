"""Learned sparse masks on convolutions: the rule shared by FLOATS and by the paths of SMART.

Non-iterative pruning with regrowth (Kundu et al., WACV 2023, §3.3, after DNR, ASP-DAC 2021): the global
density is fixed, the density of each layer learned from a running average of the *dense* gradient.
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
    """Which of the two paths of a seat a whole pass takes: the second (adversarial), or the first."""

    second: bool


class _Masked(torch.autograd.Function):
    """weight · mask; the weight gets the masked gradient, the path keeps the dense one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, path: Path) -> Tensor:
        ctx.path = path
        return weight * path.mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        path: Path = ctx.path
        path.pending.add_(grad)
        return grad * path.mask, None


_masked: Callable[[Tensor, Path], Tensor] = _Masked.apply


class Path(nn.Module):
    """One mask over a convolution's weights, and the running average of its dense gradient.

    `mask` is 0/1 in the weight's dtype; `average` and `pending` (the gradient of the current step)
    fp32. Buffers, so they are saved, resumed and moved with the model.
    """

    training_only = ("average",)
    least = 1
    mask: Tensor
    average: Tensor
    pending: Tensor

    def __init__(self, weight: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.to(weight.dtype))
        self.register_buffer("average", torch.zeros(weight.shape))
        self.register_buffer("pending", torch.zeros(weight.shape), persistent=False)

    def masked(self, weight: Tensor, at: Resolved) -> Tensor:
        """The masked weight. Only training passes feed the average: attacks add nothing to it."""
        if at.phase is not Phase.TRAIN or not torch.is_grad_enabled():
            return weight * self.mask
        return _masked(weight, self)

    @torch.no_grad()
    def settle(self) -> None:
        """After a step: the gradient of all ranks enters the average."""
        if dist.is_initialized():
            dist.all_reduce(self.pending)
        self.average.mul_(BETA).add_(self.pending, alpha=1 - BETA)
        self.pending.zero_()

    @property
    def nonzeros(self) -> int:
        """How many weights are active."""
        return int(self.mask.sum())

    def units(self) -> Tensor:
        """(U,) bool: which of the units that are dropped and grown are on; here single weights."""
        return self.mask.flatten().bool()

    def switch(self, units: Tensor) -> None:
        """Set which units are on."""
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
    """One or two paths of a seat; a `PathChoice` says which of two a pass takes."""

    order = 20

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def path(self, number: int) -> Path:
        """One of the paths."""
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
        return tuple((path.masked(w, at), amount) for w, amount in parts)

    def union(self) -> Tensor:
        """Places that any path uses."""
        return torch.stack([self.path(i).mask for i in range(len(self.paths))]).amax(0)


def active(seat: Seat, at: Resolved) -> Tensor | None:
    """The 0/1 mask over a seat's weight in this pass, or None where it is dense."""
    shape = seat.weight.shape
    masks = [t.mask(at) for t in seat.transforms if isinstance(t, Transform)]
    found = [m.expand(shape) for m in masks if m is not None]
    return torch.stack(found).amin(0) if found else None


def random_mask(weight: Tensor, density: float, *, without: Tensor | None = None) -> Tensor:
    """round(density·n) random places, exactly; of those not in `without` where it is given."""
    count = round(density * weight.numel())
    order = torch.randperm(weight.numel())
    if without is not None:
        order = order[without.flatten()[order] == 0]
    mask = torch.zeros(weight.shape)
    mask.view(-1)[order[:count]] = 1
    return mask


def shares(importance: Tensor, total: int, free: Tensor) -> list[int]:
    """`total` split in proportion to importance (L,), at most free (L,) each, overflow handed on."""
    given = torch.zeros(len(free), dtype=torch.float64)
    room, weight = free.double(), importance.double().clamp_min(1e-30)
    left = float(total)
    while left > 1e-6:
        open_ = room - given > 1e-9
        if not bool(open_.any()):
            raise ValueError(f"{total} weights to regrow, {int(free.sum())} free places")
        wanted = torch.where(open_, weight, 0 * weight)
        step = torch.minimum(wanted / wanted.sum() * left, room - given)
        given += step
        left -= float(step.sum())
    whole = given.floor().long()
    # Largest remainders take what flooring left, where there is room; the sum is exact.
    order = (given - whole).argsort(descending=True, stable=True).tolist()
    missing = total - int(whole.sum())
    while missing:
        for place in order:
            if missing and int(whole[place]) < int(free[place]):
                whole[place] += 1
                missing -= 1
    return [int(v) for v in whole]


@torch.no_grad()
def rewire(weights: Sequence[Tensor], paths: Sequence[Path], rate: float, *, blocked: Sequence[Tensor | None]) -> None:
    """One round of dropping and regrowth over the layers of one path; the total is conserved.

    Each layer drops its rate·nnz smallest |w|; the total dropped is regrown where the average is
    largest, layer l getting a share in proportion to its mean |average| over active weights. Units
    (weights, or channels) in `blocked` (another path's, where paths are disjoint) are not grown into.
    A layer keeps at least one weight, or two channels. Weights that grow start at 0.
    """
    if rate == 0:
        return
    dropped_total = 0
    importance = torch.zeros(len(paths))
    on = [path.units() for path in paths]
    open_ = []
    for i, (weight, path) in enumerate(zip(weights, paths, strict=True)):
        importance[i] = path.average[path.mask.bool()].abs().mean()
        active_now = int(on[i].sum())
        count = max(min(int(rate * active_now), active_now - path.least), 0)
        key = path.size(weight.detach()).masked_fill(~on[i], float("inf"))
        on[i] = on[i].clone()
        on[i][key.topk(count, largest=False).indices] = False
        dropped_total += count
        other = blocked[i]
        open_.append(~on[i] if other is None else ~on[i] & ~other)
    free = torch.tensor([int(o.sum()) for o in open_])
    for i, count in enumerate(shares(importance, dropped_total, free)):
        key = paths[i].size(paths[i].average).masked_fill(~open_[i], -1.0)
        on[i][key.topk(count).indices] = True
        paths[i].switch(on[i])


def prune_rate(progress: float, start: float) -> float:
    """Falls linearly from `start` to 0 over training."""
    return start * max(0.0, 1 - progress)
