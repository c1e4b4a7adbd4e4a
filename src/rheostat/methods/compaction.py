"""Compaction of a batch after an exit: which rows continue, and at what batch size."""

from __future__ import annotations

import torch
from torch import Tensor


def compacted(x: Tensor, live: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return (features of `size` rows, which include all live rows, and the indices of those rows).

    Rows keep their position, except that live rows after `size` fill gaps before it. Without gradients this happens
    in place: when a batch shrinks by a quarter, less than a quarter is copied, and copying is the overhead of early
    exit.
    """
    kept = torch.arange(size, device=x.device)
    movers = live[size:].nonzero()[:, 0] + size
    holes = (~live[:size]).nonzero()[: len(movers), 0]
    kept[holes] = movers
    nhwc = x.is_contiguous(memory_format=torch.channels_last)
    flat = x.permute(0, 2, 3, 1) if nhwc else x
    shape = flat.shape[1:]
    flat = flat.reshape(len(x), -1)
    if x.requires_grad:
        flat = flat.index_select(0, kept)
    else:
        flat = flat.index_copy_(0, holes, flat.index_select(0, movers))[:size]
    found = flat.reshape(size, *shape)
    return (found.permute(0, 3, 1, 2) if nhwc else found), kept


def rounded(count: int) -> int:
    """The batch size for `count` rows: rounded up to a multiple of an eighth of the power of two below it.

    This adds at most an eighth and gives eight sizes per doubling; counts up to 16 stay unchanged.
    """
    if count <= 16:
        return count
    unit = 1 << ((count - 1).bit_length() - 4)
    return -(-count // unit) * unit
