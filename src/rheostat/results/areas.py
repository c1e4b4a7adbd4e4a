"""One number for a whole dial: the area that its points dominate, above a reference point.

This is the hypervolume indicator (Zitzler & Thiele 1999) in two dimensions, SA and RA. It is normalised by the
hypervolume of the dedicated models, so that 1 is as good as one training per point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Bits = Sequence[tuple[Tensor, Tensor]]
"""(clean, robust) bits (N,) of every point of a run, on the same images."""
Points = list[tuple[float, float]]


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area dominated by (SA, RA) points above the reference (SA, RA); 0 if no point is above it."""
    total, best = 0.0, reference[1]
    for clean, robust in sorted(points, reverse=True):
        if clean > reference[0] and robust > best:
            total += (clean - reference[0]) * (robust - best)
            best = robust
    return total


def normalised(
    run: Bits, dedicated: Bits, *, margin: float = 0.02, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(value, low, high): a run's hypervolume divided by that of the dedicated models, with a 95 % bootstrap interval.

    The reference is the SA of the last dedicated model (the most robust one) less `margin`, and RA 0. The run and the
    dedicated models are resampled independently; all points of one side share the resampled images.
    """
    sizes = len(run[0][0]), len(dedicated[0][0])
    own, others = _resampled((run, dedicated), sizes, draws, seed)

    def ratio(own: Points, base: Points) -> float:
        reference = (base[-1][0] - margin, 0.0)
        return hypervolume(own, reference) / hypervolume(base, reference)

    value, *found = (ratio(a, b) for a, b in zip(own, others, strict=True))
    return value, *_interval(found)


def compared(
    run: Bits, other: Bits, reference: tuple[float, float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high) of two runs' hypervolumes on the same images, with a 95 % paired bootstrap interval.

    Units are SA × RA, both in [0, 1]. Each resample takes the same images for both runs. ValueError if the runs were
    measured on different numbers of images.
    """
    return mean_compared([(run, other, reference)], draws=draws, seed=seed)


def mean_compared(
    pairs: Sequence[tuple[Bits, Bits, tuple[float, float]]], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean difference, low, high) over pairs such as the seeds of one comparison: (run, other, reference) each.

    As `compared`, and each resample takes the same images for all pairs: the interval is that of the images and not
    of the seeds.
    """
    runs = [bits for run, other, _ in pairs for bits in (run, other)]
    numbers = sorted({len(bits[0][0]) for bits in runs})
    if len(numbers) != 1:
        raise ValueError(f"runs of {' and '.join(map(str, numbers))} images are not paired")
    points = _resampled(runs, tuple(numbers), draws, seed)
    each = [
        [hypervolume(a, reference) - hypervolume(b, reference) for a, b in zip(own, others, strict=True)]
        for own, others, (*_, reference) in zip(points[::2], points[1::2], pairs, strict=True)
    ]
    value, *found = (sum(one) / len(pairs) for one in zip(*each, strict=True))
    return value, *_interval(found)


def _resampled(runs: Sequence[Bits], sizes: tuple[int, ...], draws: int, seed: int) -> list[list[Points]]:
    """Each run's (SA, RA) points: on its original images, then on `draws` resamples of them.

    With one size the runs share each resample; with a size for each run they are resampled independently.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = [torch.ones(1 + draws, n, dtype=torch.float64) for n in sizes]
    for draw in range(1, 1 + draws):
        for n, count in zip(sizes, counts, strict=True):
            count[draw] = torch.randint(n, (n,), generator=generator).bincount(minlength=n)
    out = []
    for bits, count in zip(runs, counts * len(runs) if len(sizes) == 1 else counts, strict=True):
        # One product gives the means of all points, weighted by how often each image was drawn.
        table = torch.stack([bit for pair in bits for bit in pair]).double()
        means = (count @ table.T / count.shape[1]).unflatten(1, (-1, 2))
        out.append([[(a, b) for a, b in points] for points in means.tolist()])
    return out


def _interval(found: list[float]) -> tuple[float, float]:
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
