"""Confidence intervals for proportions, and for paired differences on the same examples."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

LEVEL = 0.95
"""The level of the intervals in rows."""


def exact(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Two-sided exact (Clopper–Pearson) interval of the proportion successes / n."""
    from scipy.stats import binomtest  # imported here, because it takes more than a second

    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}")
    found = binomtest(successes, n).proportion_ci(confidence_level=level, method="exact")
    return float(found.low), float(found.high)


def paired(a: Tensor, b: Tensor, *, level: float = 0.95) -> tuple[float, float, float]:
    """(difference, low, high) of mean(a) - mean(b) on the same examples; bits (N,).

    Agresti & Min (2005): the Wald interval of the discordant pairs after adding 1/2 to each cell.
    """
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"paired bits of shapes {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.bool(), b.bool()
    only_a, only_b, n = int((a & ~b).sum()), int((b & ~a).sum()), len(a)
    up, down, size = only_a + 0.5, only_b + 0.5, n + 2.0
    centre = (up - down) / size
    spread = math.sqrt(max(up + down - (up - down) ** 2 / size, 0.0)) / size
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return (only_a - only_b) / n, centre - z * spread, centre + z * spread


def not_lower(a: Tensor, b: Tensor, *, margin: float = 0.015, level: float = 0.95) -> bool:
    """Non-inferiority of a to b: whether the lower bound of the paired difference is at least -margin."""
    return paired(a, b, level=level)[1] >= -margin


def reversals(bits: list[Tensor], *, level: float = 0.95) -> list[int]:
    """Indices i at which bits[i + 1] is significantly lower than bits[i]: the paired interval excludes 0."""
    return [i for i, (a, b) in enumerate(itertools.pairwise(bits)) if paired(b, a, level=level)[2] < 0]


def share(bits: Tensor) -> float:
    """The mean of bits as a fraction."""
    return float(bits.to(torch.float64).mean())


def lower_bound(successes: int, n: int, *, confidence: float) -> float:
    """One-sided exact (Clopper–Pearson) lower bound of the proportion successes / n."""
    from scipy.stats import binomtest

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, given {confidence:g}")
    found = binomtest(successes, n, alternative="greater").proportion_ci(confidence_level=confidence, method="exact")
    return float(found.low)


def accuracies(clean: Tensor, robust: Tensor) -> dict[str, Any]:
    """The accuracy fields of a row, from bits (N,)."""
    n = len(clean)
    return {
        "clean_accuracy": share(clean),
        "robust_accuracy": share(robust),
        "interval": {
            "level": LEVEL,
            "clean": exact(int(clean.sum()), n, level=LEVEL),
            "robust": exact(int(robust.sum()), n, level=LEVEL),
        },
    }
