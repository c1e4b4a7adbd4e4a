"""The rule by which masks change: drop the smallest weights, grow where the dense gradient is largest.

Non-iterative pruning with regrowth (Kundu et al., WACV 2023, §3.3, after DNR, ASP-DAC 2021): the global
density is fixed, and the density of each layer is learned from a running average of the dense gradient. `growth`
"free" is ours; "capped" distributes regrown weights as the public code of FLOATS does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rheostat.nn.masking import Path

GROWTHS = ("free", "capped")
CAP = 0.99
"""With capped regrowth, a layer regrows at most this share of its free weights."""
NEARLY_DENSE = 0.8
"""With capped regrowth, a layer above this density that would still grow drops fewer weights."""
ROUNDS = 1000


def shares(importance: Tensor, total: int, free: Tensor) -> list[int]:
    """Split `total` in proportion to importance (L,), at most free (L,) each; overflow goes to the other layers."""
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
    return _whole(given, total, free)


def capped_shares(importance: Tensor, total: int, free: Tensor) -> list[int]:
    """Split `total` in proportion to importance (L,), each share at most 0.99·free up to rounding.

    The excess over the caps is repeatedly spread equally over all layers. Unlike in the public code the sum is exact:
    if the caps sum to less than `total`, the free weights beyond the caps take the rest.
    """
    cap = CAP * free.double()
    weight = importance.double().clamp_min(1e-30)
    given = weight / weight.sum() * total
    for _ in range(ROUNDS):
        over = (given - cap).clamp_min(0).sum()
        if float(over) < 1e-6 or float(cap.sum()) <= total:
            break
        given = torch.minimum(given, cap) + over / len(given)
    return _whole(torch.minimum(given, cap), total, free)


def _whole(given: Tensor, total: int, free: Tensor) -> list[int]:
    """Round shares to whole numbers with the sum `total`, by largest remainders, within the free room."""
    whole = given.floor().long()
    order = (given - whole).argsort(descending=True, stable=True).tolist()
    missing = total - int(whole.sum())
    while missing:
        for place in order:
            if missing and int(whole[place]) < int(free[place]):
                whole[place] += 1
                missing -= 1
    return [int(v) for v in whole]


def lowered(rate: float, density: Tensor, importance: Tensor) -> list[float]:
    """(L,) drop rates of the public code: at most the sparsity for a layer above density 0.8 that would still grow."""
    growing = importance > importance.mean()
    return [
        min(rate, 1 - d) if d > NEARLY_DENSE and grows else rate
        for d, grows in zip(density.tolist(), growing.tolist(), strict=True)
    ]


def _importance(path: Path) -> Tensor:
    """The mean |average| over the active weights of a path, 0 without any."""
    active = path.average[path.mask.bool()].abs()
    return active.mean() if len(active) else active.new_zeros(())


@torch.no_grad()
def rewire(
    weights: Sequence[Tensor],
    paths: Sequence[Path],
    rate: float,
    *,
    blocked: Sequence[Tensor | None],
    growth: str = "free",
) -> None:
    """One round of dropping and regrowth over the layers of one path; the total is conserved.

    Each layer drops its rate·nnz smallest |w|. The total dropped is regrown where the average is largest; the share
    of layer l is proportional to its mean |average| over active weights. Units (weights, or channels) in `blocked`
    (those of the other path, if paths are disjoint) are never regrown. A layer keeps at least one weight, or two
    channels. Regrown weights start at 0. `growth` "capped" lowers the rates of nearly dense layers and caps the
    regrowth of each layer.
    """
    if rate == 0 or not paths:
        return
    dropped_total = 0
    importance = torch.stack([_importance(path) for path in paths]).cpu()
    if not bool(importance.isfinite().all()):
        return  # training has diverged: nothing can be ranked, and the check of the weights reports it
    on = [path.units() for path in paths]
    density = torch.tensor([float(units.float().mean()) for units in on])
    rates = lowered(rate, density, importance) if growth == "capped" else [rate] * len(paths)
    open_ = []
    for i, (weight, path) in enumerate(zip(weights, paths, strict=True)):
        active_now = int(on[i].sum())
        count = max(min(int(rates[i] * active_now), active_now - path.least), 0)
        key = path.size(weight.detach()).masked_fill(~on[i], float("inf"))
        on[i] = on[i].clone()
        on[i][key.topk(count, largest=False).indices] = False
        dropped_total += count
        other = blocked[i]
        open_.append(~on[i] if other is None else ~on[i] & ~other)
    split = capped_shares if growth == "capped" else shares
    free = torch.tensor([int(o.sum()) for o in open_])
    for i, count in enumerate(split(importance, dropped_total, free)):
        key = paths[i].size(paths[i].average).masked_fill(~open_[i], -1.0)
        on[i][key.topk(count).indices] = True
        paths[i].switch(on[i])


def prune_rate(progress: float, start: float) -> float:
    """The drop rate at `progress` in [0, 1]: it falls linearly from `start` to 0."""
    return start * max(0.0, 1 - progress)
