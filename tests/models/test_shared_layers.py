"""Adopted networks that call one layer several times, and adopted networks through pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheostat
from rheostat import Point
from rheostat.deploy.exporting import export
from rheostat.deploy.onnx_session import Session
from rheostat.models.artifact import About
from rheostat.models.folding import fold, foldable
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


def test_a_shared_layer_folds_and_exports_as_one_layer_per_call(tmp_path: Path) -> None:
    model, x = shaken(), torch.rand(3, 1, 8, 8)
    point = Point(robustness=0.7)
    expected = model(x, point).detach()
    torch.testing.assert_close(fold(model, point)(x), expected, rtol=1e-4, atol=1e-4)
    (file,) = export(model, About(), tmp_path / "m.onnx", at=point)
    torch.testing.assert_close(torch.from_numpy(Session(file)(x.numpy())), expected, rtol=1e-4, atol=1e-4)


class Dropped(nn.Module):
    """A linear layer and a dropout, each called twice; the name of the linear layer's second call is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop, self.linear_2 = nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.linear(x.flatten(1))))
        return self.linear_2(self.drop(F.relu(self.linear(x))))


def test_a_shared_dropout_folds() -> None:
    model, x = rheostat.adopt(Dropped(), "pgd-at", image=(1, 8, 8)), torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(fold(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_pass_that_cannot_be_traced_does_not_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    model = rheostat.adopt(Dropped(), "pgd-at", image=(1, 8, 8))
    monkeypatch.setattr(type(model.net), "forward", lambda self, x, at: x if x.sum() > 0 else -x)
    with pytest.raises(ValueError, match="cannot be traced"):
        fold(model)
    assert foldable(model, Point()) is None


class Padded(nn.Module):
    """A convolution with padding other than zeros, called twice, once by keyword."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=(1, 2), padding_mode=mode), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(F.relu(self.conv(input=x))).flatten(1))


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_every_call_of_a_convolution_is_padded(mode: str) -> None:
    torch.manual_seed(0)
    module, x = Padded(mode), torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(rheostat.adopt(module, "pgd-at", image=(1, 8, 8))(x), module(x))
