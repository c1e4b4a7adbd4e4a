"""A dial: a named trade-off that a method offers (robustness, width, exit)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheostat.points.point import Value

NEAR = 1e-9
"""The tolerance within which a number counts as a step of the dial."""
NEAR_ROWS = 1e-6
"""The same tolerance for fp32 values of rows."""


@dataclass(frozen=True)
class Dial:
    """A trade-off that can be turned after training.

    `rest` is the value for a point that does not mention the dial. `values` lists the allowed positions of a stepped
    dial; without them any value in [low, high] is allowed. `spends` says that turning the dial up costs compute,
    `saves` that it saves compute. A `structural` dial decides which operators run, so it takes one number for a whole
    batch and no tensor.
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
        """The position that `value` denotes; ValueError if there is none.

        A number within 1e-9 of a step counts as that step. For a tensor this only checks that the dial takes one;
        `checked_rows` checks its values during the pass.
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
        if not self.low <= value <= self.high:  # true for NaN too
            raise self._refusal(value)
        return value

    def checked_rows(self, values: Tensor) -> Tensor:
        """(B,) values of the rows as positions of this dial; ValueError names the first invalid value."""
        if self.values is None:
            inside = (values >= self.low) & (values <= self.high)  # both are false for NaN
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
