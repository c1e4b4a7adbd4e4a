"""A batch made smaller behind an exit: which rows go on, and at what size they run."""

from __future__ import annotations

import torch
from torch import Tensor


def compacted(x: Tensor, live: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(features of `size` rows with all live ones among them, which rows they are).

    Rows keep their place but for live ones behind `size`, which fill holes before it. Without
    gradients that happens in the features' own memory: of a batch that shrinks by a quarter less
    than a quarter is copied, and copying is what early exit costs.
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
    """The batch size that so many rows run at: the next multiple of an eighth of its power of two.

    At most an eighth more, and eight sizes for every doubling; up to 16 as it is.
    """
    if count <= 16:
        return count
    unit = 1 << ((count - 1).bit_length() - 4)
    return -(-count // unit) * unit
