"""The distinct settings of a batch whose rows differ in dials."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rheostat.points.dial import Dial


def distinct(
    values: Mapping[str, Tensor], dials: Mapping[str, Dial], x: Tensor
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return ((S,) table of each dial, (B,) index of each row's setting) for dials with one value per row of x.

    The index is None if the tables broadcast unchanged. Under export the table is the whole batch, so that one graph
    serves all settings. ValueError for a wrong number of values, or for values out of range.
    """
    for name, value in values.items():
        if value.shape[0] != x.shape[0]:
            raise ValueError(f"dial {name!r} has {value.shape[0]} values for {x.shape[0]} examples")
    if torch.compiler.is_exporting():
        return {k: v.to(x.device, torch.float32) for k, v in values.items()}, None
    stacked = torch.stack([dials[k].checked_rows(v.to(torch.float32)) for k, v in values.items()])
    if len(stacked) == 1:  # the same result without sorting columns, which is much slower
        only, rows = stacked[0].unique(return_inverse=True)
        table = only[None]
    else:
        table, rows = stacked.unique(dim=1, return_inverse=True)
    found = {k: table[i].to(x.device) for i, k in enumerate(values)}
    return found, rows.to(x.device) if table.shape[1] > 1 else None
