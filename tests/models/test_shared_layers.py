"""Adopted networks that call one convolution before several norms, and adopted networks through pickle."""

from __future__ import annotations

import pickle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheostat
from rheostat import Point
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase


class Shared(nn.Module):
    """One convolution, followed by another norm at each of its two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.conv(self.stem(x))))
        x = F.relu(self.second(self.conv(x)))
        return self.head(x.mean((2, 3)))


def shaken() -> Tunable:
    torch.manual_seed(0)
    model = rheostat.adopt(Shared(), "dual", image=(1, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_a_shared_convolution_takes_the_norm_of_each_call_in_an_attack() -> None:
    model, x = shaken(), torch.rand(3, 1, 8, 8)
    point = model.complete(Point(robustness=1.0))
    plain = model.read(x, model.resolve(point, x, phase=Phase.ATTACK)).logits
    at = model.resolve(point, x, phase=Phase.ATTACK, memo=True)
    for _ in range(2):
        torch.testing.assert_close(model.read(x, at).logits, plain, rtol=1e-4, atol=1e-4)


def test_an_adopted_network_is_the_same_after_pickle() -> None:
    model, x = shaken(), torch.rand(3, 1, 8, 8)
    again = pickle.loads(pickle.dumps(model.net))
    at = model.resolve(model.complete(Point(robustness=1.0)), x, memo=True)
    torch.testing.assert_close(again(x, at), model.net(x, at), rtol=1e-4, atol=1e-4)
