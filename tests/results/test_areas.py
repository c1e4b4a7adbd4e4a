"""The area under a dial: by hand, paired by image, and as a mean over seeds."""

from __future__ import annotations

import pytest
import torch

from rheostat.results.areas import compared, hypervolume, mean_compared

N = 200


def bits(seed: int, *shares: tuple[float, float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [(torch.rand(N, generator=draw) < clean, torch.rand(N, generator=draw) < robust) for clean, robust in shares]


def test_the_area_of_three_points_by_hand() -> None:
    assert hypervolume([(0.9, 0.1), (0.8, 0.4), (0.7, 0.3)], (0.6, 0.0)) == pytest.approx(0.3 * 0.1 + 0.2 * 0.3)


def test_a_mean_over_seeds_is_the_mean_and_narrower_than_its_parts() -> None:
    pairs = [
        (bits(seed, (0.9, 0.1), (0.8, 0.5)), bits(seed + 10, (0.85, 0.1), (0.75, 0.5)), (0.7, 0.0)) for seed in (0, 1)
    ]
    each = [compared(*pair) for pair in pairs]
    value, low, high = mean_compared(pairs)
    assert value == pytest.approx(sum(e[0] for e in each) / 2)
    assert low < value < high
    assert high - low < max(e[2] - e[1] for e in each)
    assert mean_compared(pairs[:1]) == each[0]


def test_runs_of_other_numbers_of_images_are_not_paired() -> None:
    mine, theirs = bits(0, (0.9, 0.1)), [(a[:50], b[:50]) for a, b in bits(1, (0.9, 0.1))]
    with pytest.raises(ValueError, match="runs of 50 and 200 images are not paired"):
        compared(mine, theirs, (0.5, 0.0))
