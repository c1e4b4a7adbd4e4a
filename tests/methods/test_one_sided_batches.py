"""Mixtures of two ends: a batch whose rows all stand at one end runs that end alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rheostat
from rheostat import Point


class Viewing(nn.Module):
    """A network that cannot take a batch of no images: its `view` has a dimension to infer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.last(x.view(x.size(0), -1))


@pytest.mark.parametrize("paper", ["smart", "mixing", "mixednuts"])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_rows_at_one_end_are_that_end_as_a_number(paper: str, level: float) -> None:
    torch.manual_seed(0)
    model = rheostat.adopt(Viewing(), paper, image=(1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    found = model(x, Point(robustness=torch.full((3,), level)))
    assert torch.allclose(found, model(x, Point(robustness=level)), atol=1e-5)
