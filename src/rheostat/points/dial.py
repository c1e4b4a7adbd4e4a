"""A dial: a named trade-off that a method offers (robustness, width, exit)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rheostat.points.point import Value


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
                f"dial {self.name!r} has no position {value:g}; allowed: " + ", ".join(f"{v:g}" for v in self.values)
            )
        if self.values is None and not self.low <= value <= self.high:
            raise ValueError(f"dial {self.name!r} takes a value from {self.low:g} to {self.high:g}, given {value:g}")

    def positions(self, count: int = 11) -> tuple[float, ...]:
        """The steps of a stepped dial, or `count` evenly spaced positions."""
        if self.values is not None:
            return self.values
        return tuple(round(self.low + (self.high - self.low) * i / (count - 1), 9) for i in range(count))
