"""A resolved point: what the layers of one forward pass see.

The distinct settings of the batch are a table; every row has the index of its setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from rheostat.points.phase import Phase

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """One forward pass's view of a point; made by `Tunable.resolve`, read by layers.

    `table` maps a dial, or a quantity a method derives from dials, to an (S, ...) tensor over the S
    distinct settings of the batch. `rows` is the (B,) place of each row's setting, or None where the
    table broadcasts as it is (S = 1, or S = B). `scalars` holds what is one number for the whole
    batch. `phase` is what kind of pass this is: an argument, not module state.
    `across` sums statistics over all ranks. `memo`, where present, keeps what only depends on the
    point and the weights between the passes of one attack, without gradients to the weights.
    """

    table: Mapping[str, Tensor]
    scalars: Mapping[str, float]
    rows: Tensor | None = None
    phase: Phase = Phase.EVAL
    generator: torch.Generator | None = None
    across: bool = False
    memo: dict[int, object] | None = field(default=None, repr=False)

    @property
    def training(self) -> bool:
        """Whether this pass normalises by the statistics of its own rows."""
        return self.phase is Phase.TRAIN

    def gather(self, values: Tensor) -> Tensor:
        """(S, ...) values of the settings → (B, ...) values of the rows (or a broadcastable (1, ...))."""
        return values if self.rows is None else values.index_select(0, self.rows)

    def once(self, seat: object, compute: Callable[[], T]) -> T:
        """`compute()`, or what the memo of this attack already holds for `seat`."""
        if self.memo is None:
            return compute()
        key = id(seat)
        if key not in self.memo:
            with torch.no_grad():
                self.memo[key] = compute()
        return self.memo[key]  # type: ignore[return-value]

    def only(self, rows: Tensor) -> Resolved:
        """The same view for some rows of the batch."""
        if self.rows is not None:
            return replace(self, rows=self.rows[rows])
        size = next((len(t) for t in self.table.values()), 1)
        return self if size == 1 else replace(self, rows=rows.to(torch.long))
