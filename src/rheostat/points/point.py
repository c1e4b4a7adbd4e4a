"""An operating point: an immutable assignment of dials to values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

Value = float | Tensor
"""The value of a dial: a number, or a (B,) tensor with one entry per example."""


class Point(Mapping[str, Value]):
    """An operating point: dial names to values, immutable.

    A value is a float or a (B,) tensor, one entry per example of the batch. Points without tensors
    are hashable and compare by value.

    Examples:
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
                    raise ValueError(f"dial {name!r} takes a number or a (B,) tensor, given shape {tuple(value.shape)}")
                kept[name] = value if value.ndim == 1 else float(value)
            else:
                kept[name] = float(value)
        object.__setattr__(self, "_values", kept)

    def __reduce__(self) -> tuple[Callable[[dict[str, Value]], Point], tuple[dict[str, Value]]]:
        return _rebuilt, (dict(self._values),)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Point is immutable; make a new one with point.replace(...)")

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = (f"{k}=tensor{tuple(v.shape)}" if isinstance(v, Tensor) else f"{k}={v:g}" for k, v in self.items())
        return f"Point({', '.join(shown)})"

    def __hash__(self) -> int:
        if any(isinstance(v, Tensor) for v in self.values()):
            raise TypeError("a point with per-example values is not hashable")
        return hash(tuple(self.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and tuple(self.items()) == tuple(other.items())

    def replace(self, **values: Value) -> Point:
        """This point with some dials set to new values."""
        return Point(**{**dict(self), **values})

    def only(self, rows: Tensor) -> Point:
        """This point for some rows of its batch, `rows` an index or boolean tensor."""
        return Point(**{k: v[rows.to(v.device)] if isinstance(v, Tensor) else v for k, v in self.items()})

    def doubled(self) -> Point:
        """This point for its batch repeated twice."""
        return Point(**{k: torch.cat((v, v)) if isinstance(v, Tensor) else v for k, v in self.items()})

    def numbers(self) -> dict[str, float]:
        """The values as plain numbers; ValueError if there are per-example values."""
        out: dict[str, float] = {}
        for name, value in self.items():
            if isinstance(value, Tensor):
                raise ValueError(f"dial {name!r} holds one value per example, not a number")
            out[name] = value
        return out

    def label(self) -> str:
        """A short text for tables and plots: `robustness=0.3 width=0.5`."""
        return " ".join(f"{k}={v:g}" for k, v in self.numbers().items()) or "rest"


def _rebuilt(values: dict[str, Value]) -> Point:
    """Rebuild a copied or pickled point from its values."""
    return Point(**values)


# A point holds only names and values and runs no code, so torch.load may read it by default.
torch.serialization.add_safe_globals([_rebuilt])
