"""An option counts by what it holds: the same call is the same run in every process, and a changed one is another."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, lr_scheduler
from torch.utils.data import WeightedRandomSampler

from rheostat.training.describing import _Held, held_by
from rheostat.training.options import FitOptions

Groups = list[dict[str, Any]]
RATE = 1e-3


class Weighted:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.factor * nn.functional.cross_entropy(logits, labels, reduction="none")

    def method(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self(logits, labels)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


def closing(rate: float) -> Callable[[Groups], AdamW]:
    return lambda groups: AdamW(groups, lr=rate)


def defaulting(rate: float) -> Callable[[Groups], AdamW]:
    def made(groups: Groups, lr: float = rate) -> AdamW:
        return AdamW(groups, lr=lr)

    return made


def optimiser(rate: float) -> torch.optim.Optimizer:
    one, two = nn.Linear(2, 2).parameters()
    return torch.optim.SGD([{"params": [one], "lr": rate}, {"params": [two]}], lr=0.5, momentum=0.9)


def frozen_loss(weight: float) -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.full((3,), weight), reduction="none")


OPTIONS: dict[str, Callable[[float], Any]] = {
    "a closure": closing,
    "a default": defaulting,
    "a partial": lambda rate: functools.partial(AdamW, lr=rate),
    "an optimiser": optimiser,
    "a scheduler": lambda rate: lr_scheduler.ExponentialLR(optimiser(0.1), rate),
    "a function for a scheduler": lambda rate: lr_scheduler.LambdaLR(optimiser(0.1), lambda step: rate),
    "an object": Weighted,
    "a method": lambda factor: Weighted(factor).method,
    "a module": frozen_loss,
    "a sampler": lambda weight: WeightedRandomSampler([weight] * 4 + [2.0] * 4, 8),
    "a state dict": lambda value: {"weight": torch.full((2, 2), value), "bias": torch.zeros(2)},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_an_option_holds_decides(kind: str) -> None:
    make, model = OPTIONS[kind], Net()
    assert held_by(make(0.25), model) == held_by(make(0.25), model)
    assert held_by(make(0.25), model) != held_by(make(0.75), model)
    assert not any(" at 0x" in part for part in _Held(frozenset()).parts(make(0.25)))


def test_the_code_and_the_globals_of_a_function_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def helped(groups: Groups) -> AdamW:
        return made(groups)

    model = Net()
    assert held_by(lambda groups: AdamW(groups, lr=1e-3), model) != held_by(
        lambda groups: AdamW(groups, lr=3e-3), model
    )
    assert held_by(lambda groups: AdamW(groups), model) != held_by(lambda groups: torch.optim.SGD(groups), model)
    before = held_by(lambda groups: AdamW(groups, lr=RATE), model)
    monkeypatch.setattr(sys.modules[__name__], "RATE", 3e-3)
    assert held_by(lambda groups: AdamW(groups, lr=RATE), model) != before
    outer: list[str] = []
    for factor in (0.5, 0.25):
        made = closing(factor)
        outer.append("".join(_Held(frozenset()).parts(helped)))
    assert outer[0] != outer[1]


def test_what_a_run_changes_does_not_count() -> None:
    """Neither the rate that a scheduler sets, nor the weights of the model, which a function may close over."""
    model = Net()
    given, counted = optimiser(0.1), Weighted(1.0)
    before = held_by(given, model), held_by(counted, model)
    given.param_groups[0]["lr"], counted.factor = 0.01, 2.0
    assert (held_by(given, model), held_by(counted, model)) == before

    def last() -> Callable[[Groups], AdamW]:
        return lambda groups: AdamW(model.layer.parameters(), lr=RATE)

    before_training = held_by(last(), model)
    nn.init.zeros_(model.layer.weight)
    assert held_by(last(), model) == before_training


def test_options_without_objects_are_their_text() -> None:
    """The runs of earlier versions continue."""
    options = FitOptions(accumulate=2, freeze=["net.blocks.0"], class_weights=torch.ones(3), init="oat-digits")
    assert options.identified(Net()) == options.described()
    assert options.described().keys() == {"accumulate", "freeze", "class_weights", "init"}
