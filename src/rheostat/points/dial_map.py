"""The dial map: a monotone map from the dial's position t of `robustness` to (λ, blend).

λ is the weight in the training loss, and small changes of it may have a large effect; t is the position that a user
sets. `calibration.dial.calibrate_dial` fits the knots.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DialMap:
    """Knots of a piecewise-linear, non-decreasing map of [0, 1]: t → λ and t → blend."""

    position: tuple[float, ...]
    level: tuple[float, ...]
    blend: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.position), len(self.level), len(self.blend)}
        if len(sizes) != 1 or sizes.pop() < 2:
            raise ValueError("a dial map needs at least two knots, as many levels and blends")
        if self.position[0] != 0 or self.position[-1] != 1:
            raise ValueError("a dial map runs from position 0 to 1")
        if any(b <= a for a, b in zip(self.position, self.position[1:], strict=False)):
            raise ValueError("the positions of a dial map must rise")
        for values in (self.level, self.blend):
            if any(b < a for a, b in itertools.pairwise(values)):
                raise ValueError("a dial map must not fall")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(S,) positions → (S,) λ and (S,) blend; written as a sum of ramps, so that it can be exported."""
        return self._ramps(t, self.level), self._ramps(t, self.blend)

    def number(self, t: float) -> tuple[float, float]:
        """(λ, blend) at one position, as plain numbers."""
        for i in range(len(self.position) - 2, -1, -1):
            if t >= self.position[i]:
                share = (t - self.position[i]) / (self.position[i + 1] - self.position[i])
                return (
                    self.level[i] + share * (self.level[i + 1] - self.level[i]),
                    self.blend[i] + share * (self.blend[i + 1] - self.blend[i]),
                )
        return self.level[0], self.blend[0]

    def _ramps(self, t: Tensor, values: tuple[float, ...]) -> Tensor:
        total = torch.full_like(t, values[0])
        for i in range(len(values) - 1):
            width = self.position[i + 1] - self.position[i]
            rise = (values[i + 1] - values[i]) / width
            along = t - self.position[i]
            total = total + (along.relu() - (along - width).relu()) * rise
        return total.clamp(min=float(values[0])).clamp(max=float(values[-1]))
