"""Dials and operating points.

A *dial* is a named trade-off a method offers (robustness, width, exit). An *operating point* is an
immutable assignment of dials to values. A *resolved* point is what the layers of one forward pass
see: the distinct settings of the batch as a table, and for every row the place of its setting.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Value = float | Tensor


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The clause that ends an error message: the nearest allowed name, and all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names) if names else 'none'}"


def check_choice(owner: str, what: str, given: str, allowed: Iterable[str]) -> None:
    """ValueError that names owner, option, what was given and the nearest, unless it is allowed."""
    names = tuple(allowed)
    if given not in names:
        raise ValueError(f"{owner}: no {what} {given!r}; {nearest(given, names)}")


@dataclass(frozen=True)
class Dial:
    """A trade-off that can be turned after training.

    `rest` is the value a point takes when it does not mention the dial. `values` lists the only
    positions of a dial that has steps; otherwise any value of [low, high] is allowed. `spends` says
    that turning the dial up costs compute, `saves` that it saves some. A `structural` dial decides
    which operators run, so it has one value for a whole batch and refuses a tensor.
    """

    name: str
    rest: float
    low: float = 0.0
    high: float = 1.0
    values: tuple[float, ...] | None = None
    spends: bool = False
    saves: bool = False
    structural: bool = False

    def check(self, value: Value) -> None:
        """Raise ValueError unless `value` is a position of this dial."""
        if isinstance(value, Tensor):
            if self.structural:
                raise ValueError(
                    f"dial {self.name!r} is structural: it takes one number for the whole batch, "
                    f"given a tensor of shape {tuple(value.shape)}"
                )
            return
        if self.values is not None and not any(abs(value - v) < 1e-9 for v in self.values):
            raise ValueError(
                f"dial {self.name!r} has no position {value:g}; allowed: "
                + ", ".join(f"{v:g}" for v in self.values)
            )
        if self.values is None and not self.low <= value <= self.high:
            raise ValueError(
                f"dial {self.name!r} takes a value from {self.low:g} to {self.high:g}, given {value:g}"
            )

    def positions(self, count: int = 11) -> tuple[float, ...]:
        """The steps of a stepped dial, or `count` evenly spaced positions."""
        if self.values is not None:
            return self.values
        return tuple(
            round(self.low + (self.high - self.low) * i / (count - 1), 9) for i in range(count)
        )


class Point(Mapping[str, Value]):
    """An operating point: dial names to values, immutable.

    A value is a float or a (B,) tensor, one entry per example of the batch. Points without tensors
    are hashable and compare by value.

    >>> Point(robustness=0.3, width=0.5)
    Point(robustness=0.3, width=0.5)
    """

    __slots__ = ("_values",)
    _values: dict[str, Value]

    def __init__(self, **values: Value) -> None:
        kept: dict[str, Value] = {}
        for name, value in sorted(values.items()):
            if isinstance(value, Tensor):
                if value.ndim > 1:
                    raise ValueError(
                        f"dial {name!r} takes a number or a (B,) tensor, given shape "
                        f"{tuple(value.shape)}"
                    )
                kept[name] = value if value.ndim == 1 else float(value)
            else:
                kept[name] = float(value)
        object.__setattr__(self, "_values", kept)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Point is immutable; make a new one with point.replace(...)")

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = (
            f"{k}=tensor{tuple(v.shape)}" if isinstance(v, Tensor) else f"{k}={v:g}"
            for k, v in self.items()
        )
        return f"Point({', '.join(shown)})"

    def __hash__(self) -> int:
        if any(isinstance(v, Tensor) for v in self.values()):
            raise TypeError("a point with per-example values is not hashable")
        return hash(tuple(self.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and tuple(self.items()) == tuple(other.items())

    def replace(self, **values: Value) -> Point:
        """This point with some dials set otherwise."""
        return Point(**{**dict(self), **values})

    def only(self, rows: Tensor) -> Point:
        """This point for some rows of its batch, `rows` an index or boolean tensor."""
        return Point(
            **{k: v[rows.to(v.device)] if isinstance(v, Tensor) else v for k, v in self.items()}
        )

    def doubled(self) -> Point:
        """This point for its batch twice over."""
        return Point(
            **{k: torch.cat((v, v)) if isinstance(v, Tensor) else v for k, v in self.items()}
        )

    def numbers(self) -> dict[str, float]:
        """The values as plain numbers; raises on per-example values."""
        out: dict[str, float] = {}
        for name, value in self.items():
            if isinstance(value, Tensor):
                raise ValueError(f"dial {name!r} holds one value per example, not a number")
            out[name] = value
        return out

    def label(self) -> str:
        """A short text for tables and plots: `robustness=0.3 width=0.5`."""
        return " ".join(f"{k}={v:g}" for k, v in self.numbers().items()) or "rest"


def parse_grid(text: str) -> list[Point]:
    """Points from a CLI text: `robustness=0:1:0.1`, `robustness=0,0.5,1 width=0.5` (all pairs).

    A dial is followed by one number, a comma list, or `first:last:step` (both ends included).
    """
    axes: list[list[tuple[str, float]]] = []
    for word in text.replace(";", " ").split():
        name, sign, given = word.partition("=")
        try:
            if not sign:
                raise ValueError
            values: list[float] = []
            for part in given.split(","):
                if ":" in part:
                    first, last, step = (float(v) for v in part.split(":"))
                    if step <= 0:
                        raise ValueError
                    count = int((last - first) / step + 1e-6) + 1
                    values += [round(first + i * step, 9) for i in range(count)]
                else:
                    values.append(float(part))
        except ValueError:
            raise ValueError(
                f"cannot read {word!r} as a dial; write robustness=0.3, robustness=0,0.5,1 or "
                "robustness=0:1:0.1"
            ) from None
        axes.append([(name, v) for v in values])
    return [Point(**dict(combination)) for combination in itertools.product(*axes)]


@dataclass(frozen=True)
class Resolved:
    """One forward pass's view of a point; made by `Tunable.resolve`, read by layers.

    `table` maps a dial, or a quantity a method derives from dials, to an (S, ...) tensor over the S
    distinct settings of the batch. `rows` is the (B,) place of each row's setting, or None where the
    table broadcasts as it is (S = 1, or S = B). `scalars` holds what is one number for the whole
    batch. `phase` is "eval", "train" (batch statistics) or "attack" (running statistics, but the
    norm set that training takes): what kind of pass this is is an argument, not module state.
    `across` sums statistics over all ranks. `memo`, where present, keeps what only depends on the
    point and the weights between the passes of one attack, without gradients to the weights.
    """

    table: Mapping[str, Tensor]
    scalars: Mapping[str, float]
    rows: Tensor | None = None
    phase: str = "eval"
    generator: torch.Generator | None = None
    across: bool = False
    memo: dict[int, object] | None = field(default=None, repr=False)

    @property
    def training(self) -> bool:
        """Whether this pass normalises by the statistics of its own rows."""
        return self.phase == "train"

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
