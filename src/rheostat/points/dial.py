"""A dial: a named trade-off that a method offers (robustness, width, exit)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheostat.points.point import Value

NEAR = 1e-9
"""How far from a step a number may be that still stands for it."""
NEAR_ROWS = 1e-6
"""The same for the fp32 values of rows."""


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

    def checked(self, value: Value) -> Value:
        """The position that `value` stands for; ValueError where there is none.

        A number within 1e-9 of a step is that step. A tensor's values are checked in the pass that takes
        them (`checked_rows`): here only that this dial takes one.
        """
        if isinstance(value, Tensor):
            if self.structural:
                raise ValueError(
                    f"dial {self.name!r} is structural: it takes one number for the whole batch, "
                    f"given a tensor of shape {tuple(value.shape)}"
                )
            return value
        if self.values is not None:
            nearest = min(self.values, key=lambda v: abs(value - v))
            if not abs(value - nearest) < NEAR:
                raise self._refusal(value)
            return nearest
        if not self.low <= value <= self.high:  # nor is NaN
            raise self._refusal(value)
        return value

    def checked_rows(self, values: Tensor) -> Tensor:
        """(B,) values of the rows as positions of this dial; ValueError names the first that is none."""
        if self.values is None:
            inside = (values >= self.low) & (values <= self.high)  # of NaN neither is true
            for bad in values[~inside][:1].tolist():
                raise self._refusal(bad)
            return values
        steps = torch.tensor(self.values, device=values.device, dtype=values.dtype)
        distance, step = (values[:, None] - steps).abs().min(1)
        for bad in values[~(distance < NEAR_ROWS)][:1].tolist():
            raise self._refusal(bad)
        return steps[step]

    def _refusal(self, value: float) -> ValueError:
        if self.values is None:
            return ValueError(f"dial {self.name!r} takes a value from {self.low:g} to {self.high:g}, given {value:g}")
        allowed = ", ".join(f"{v:g}" for v in self.values)
        return ValueError(f"dial {self.name!r} has no position {value:g}; allowed: {allowed}")

    def positions(self, count: int = 11) -> tuple[float, ...]:
        """The steps of a stepped dial, or `count` evenly spaced positions."""
        if self.values is not None:
            return self.values
        return tuple(round(self.low + (self.high - self.low) * i / (count - 1), 9) for i in range(count))
