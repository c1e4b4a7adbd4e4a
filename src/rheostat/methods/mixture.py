"""Mixtures of logits between two ends, (1-λ)·f₀ + λ·f₁; each row runs only the passes that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rheostat.methods.base import Output
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved

End = Callable[[Tensor, Resolved, float], Output]
"""(images, the point of these rows, 0.0 or 1.0) → the output of the pass at that end."""


def mixture(x: Tensor, at: Resolved, end: End) -> Output:
    """The pass at the point's `robustness`: one end, or a mixture of both; a batch with several λ splits its rows.

    Under export every row takes both passes, so that one graph serves all settings.
    """
    level = at.robustness
    if level.number is not None:
        if level.number in (0.0, 1.0):
            return end(x, at, level.number)
        return _mixed(x, at, level.table[:1], end)
    levels = at.gather(level.table).expand(x.shape[0])
    if torch.compiler.is_exporting():
        return _mixed(x, at, levels, end)
    return _split(x, at, levels, end)


def mixture_passes(point: Point) -> int:
    """The number of passes that a point costs: two between the ends, else one."""
    level = torch.as_tensor(point.get("robustness", 0.0))
    return 1 + int(bool(((level > 0) & (level < 1)).any()))


def _mixed(x: Tensor, at: Resolved, level: Tensor, end: End) -> Output:
    first, last = (_stack(end(x, at, e)) for e in (0.0, 1.0))
    return _unstack(torch.lerp(first, last, level[:, None, None]))


def _split(x: Tensor, at: Resolved, levels: Tensor, end: End) -> Output:
    total: Tensor | None = None
    taken: Tensor | None = None
    for e, share in ((0.0, 1 - levels), (1.0, levels)):
        rows = share.nonzero()[:, 0]
        if not len(rows) and len(x):  # a user's network may not take a batch of no images
            continue
        output = end(x[rows], at.only(rows), e)
        found = _stack(output) * share[rows, None, None]
        if total is None:
            total = found.new_zeros(len(x), *found.shape[1:])
        total = total.index_add(0, rows, found)
        if output.taken is not None:  # exits are live only if every row takes one pass
            taken = output.taken.new_zeros(len(x)) if taken is None else taken
            taken = taken.index_copy(0, rows, output.taken)
    assert total is not None
    return replace(_unstack(total), taken=taken)


def _stack(output: Output) -> Tensor:
    """(n, 1 + E, K): the final logits, then those of the exits."""
    return torch.stack((output.logits, *output.exits), 1)


def _unstack(logits: Tensor) -> Output:
    first, *exits = logits.unbind(1)
    return Output(first, tuple(exits))
