"""A resolved point: the view of an operating point that the layers of one forward pass see.

The distinct settings of a batch form a table, and every row has the index of its setting. A method stores the values
that it derives from the point as an object of its own class, and looks that object up by its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from rheostat.points.phase import Phase

T = TypeVar("T")


@dataclass(frozen=True)
class Level:
    """The values of one dial over the S settings of a pass.

    `table` is (S,), fp32, on the device of the pass. `number` is the value if the whole batch has one Python number,
    so that code can read it without waiting for the device; otherwise None.
    """

    table: Tensor
    number: float | None = None


@dataclass(frozen=True)
class Resolved:
    """One forward pass's view of a point; made by `Tunable.resolve`, read by layers.

    `settings` maps each structural dial to its number for the whole batch; `levels` maps each other dial to its values
    per setting. `rows` is the (B,) index of each row's setting, or None if the tables broadcast unchanged (S = 1, or S
    = B). `blend` is the (S,) share of the adversarial norm set, if the model has two. `derived` holds the values that
    methods derived, one per class (see `of` and `with_`). `phase` is the kind of the pass. `across` sums statistics
    over all ranks. `derive` computes the values that methods derive, for a view whose dials were turned. `memo`, if
    present, caches values that depend only on the point and the weights between the passes of one attack, without
    gradients to the weights.
    """

    settings: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, Level] = field(default_factory=dict)
    rows: Tensor | None = None
    blend: Tensor | None = None
    phase: Phase = Phase.EVAL
    generator: torch.Generator | None = None
    across: bool = False
    derived: tuple[object, ...] = ()
    memo: dict[object, Any] | None = field(default=None, repr=False)
    derive: Callable[[Resolved], Resolved] | None = field(default=None, repr=False)

    @property
    def training(self) -> bool:
        """Whether this pass normalises by the statistics of its own rows."""
        return self.phase is Phase.TRAIN

    @property
    def robustness(self) -> Level:
        """λ. A method that uses it lists `robustness` in `Method.reads`, so that the stack must declare the dial."""
        return self.levels["robustness"]

    @property
    def width(self) -> float:
        """The share of the channels that run; 1 if no method declares the dial."""
        return self.settings.get("width", 1.0)

    def get(self, kind: type[T]) -> T | None:
        """The derived value of this class, or None."""
        for value in self.derived:
            if isinstance(value, kind):
                return value
        return None

    def of(self, kind: type[T]) -> T:
        """The derived value of this class; LookupError if no method of this pass derives one."""
        value = self.get(kind)
        if value is None:
            raise LookupError(f"no method of this pass derives a {kind.__name__}")
        return value

    def with_(self, value: object) -> Resolved:
        """This view with a derived value, which replaces any other of the same class."""
        return replace(self, derived=(*(v for v in self.derived if type(v) is not type(value)), value))

    def turned(self, **dials: float) -> Resolved:
        """This view with some dials set to one number for the whole batch.

        Derived values and `blend` do not change: the caller must replace them, or derive them anew.
        """
        levels = {
            name: Level(torch.full_like(self.levels[name].table, number), number)
            for name, number in dials.items()
            if name in self.levels
        }
        settings = {name: number for name, number in dials.items() if name not in self.levels}
        return replace(self, settings={**self.settings, **settings}, levels={**self.levels, **levels})

    def derived_anew(self) -> Resolved:
        """This view with the values that its methods derive from its dials; other derived values and `blend` stay."""
        return self if self.derive is None else self.derive(self)

    def apart(self, number: int) -> Resolved:
        """This view with a separate memo, for one of several passes that an attack makes of each image."""
        if self.memo is None:
            return self
        return replace(self, memo=self.memo.setdefault(number, {}))

    def gather(self, values: Tensor) -> Tensor:
        """(S, ...) values of the settings → (B, ...) values of the rows (or a broadcastable (1, ...))."""
        return values if self.rows is None else values.index_select(0, self.rows)

    def once(self, seat: object, compute: Callable[[], T], *, what: str = "") -> T:
        """The cached value for `seat` in this attack's memo, computed by `compute()` if it is missing.

        `what` names the value if a seat has several.
        """
        if self.memo is None:
            return compute()
        key = (id(seat), what)
        if key not in self.memo:
            # Not in bf16: the value also serves passes in fp32, which judge.
            with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                self.memo[key] = compute()
        kept: T = self.memo[key]
        return kept

    def only(self, rows: Tensor) -> Resolved:
        """The same view for some rows of the batch."""
        if self.rows is not None:
            return replace(self, rows=self.rows[rows])
        size = next((level.table.shape[0] for level in self.levels.values()), 1)
        return self if size == 1 else replace(self, rows=rows.to(torch.long))
