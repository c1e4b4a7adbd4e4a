"""A smoothed measurement with its deviation, as TCP keeps its round-trip time (RFC 6298)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Smoothed:
    """An exponentially forgetting mean and mean deviation of measured values."""

    mean: float
    deviation: float = 0.0

    def update(self, value: float) -> None:
        """Add a value: the mean moves by 1/8 of the difference, the deviation by 1/4."""
        self.deviation += 0.25 * (abs(value - self.mean) - self.deviation)
        self.mean += 0.125 * (value - self.mean)

    @property
    def high(self) -> float:
        """A cautious value: the mean plus the mean deviation."""
        return self.mean + self.deviation
