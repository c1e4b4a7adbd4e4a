"""An option counts by what it specifies: the same call is the same run, and a changed one is another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import SubsetRandomSampler, WeightedRandomSampler

from rheostat.training.describing import hash_of
from rheostat.training.options import FitOptions

Groups = list[dict[str, Any]]


def closing(rate: float) -> Callable[[Groups], AdamW]:
    return lambda groups: AdamW(groups, lr=rate)


def defaulting(rate: float) -> Callable[[Groups], AdamW]:
    def made(groups: Groups, lr: float = rate) -> AdamW:
        return AdamW(groups, lr=lr)

    return made


def documented(groups: Groups) -> AdamW:
    """Text that is no part of what the function does."""
    return AdamW(groups, lr=1e-3)


def on(device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda images: images.to(device)


def calling(used: Callable[[Groups], AdamW]) -> Callable[[Groups], AdamW]:
    return lambda groups: used(groups)


def named(module: str, name: str) -> type:
    return type(name, (), {"__module__": module, "__qualname__": name})


def optimiser(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=rate, momentum=0.9)


def weighted(weight: float) -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.full((3,), weight), reduction="none")


OPTIONS: dict[str, Callable[[float], Any]] = {
    "a closure": closing,
    "a constant": lambda rate: eval(f"lambda groups: AdamW(groups, lr={rate})"),
    "a default": defaulting,
    "a partial": lambda rate: functools.partial(AdamW, lr=rate),
    "a wrapped function": lambda rate: torch.no_grad()(closing(rate)),
    "an optimiser": optimiser,
    "a module": weighted,
    "a sampler": lambda weight: WeightedRandomSampler([weight] * 4 + [2.0] * 4, 8),
    "rows of a sampler": lambda row: SubsetRandomSampler([int(4 * row), 5]),
    "a state dict": lambda value: {"weight": torch.full((2, 2), value), "bias": torch.zeros(2)},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_an_option_specifies_decides(kind: str) -> None:
    make = OPTIONS[kind]
    assert hash_of(make(0.25)) == hash_of(make(0.25))
    assert hash_of(make(0.25)) != hash_of(make(0.75))


def test_the_names_that_a_function_uses_count_and_what_they_hold_does_not() -> None:
    assert hash_of(lambda groups: AdamW(groups)) != hash_of(lambda groups: torch.optim.SGD(groups))
    assert hash_of(calling(closing(0.1))) == hash_of(calling(closing(0.2)))


def test_a_process_device_or_version_does_not_count() -> None:
    """A documented function, one on another device, and one of an installed package, of which only the name counts."""

    def rule(groups: Groups) -> AdamW:
        return AdamW(groups, lr=1e-3)

    before = hash_of(rule)
    rule.__code__ = documented.__code__.replace(co_name="rule", co_qualname=rule.__qualname__)
    assert hash_of(rule) == before
    assert len({hash_of(on(torch.device(name))) for name in ("cpu", "cuda:0")}) == 1
    assert hash_of(nn.functional.cross_entropy) == hash_of(named("torch.nn.functional", "cross_entropy"))


def test_what_a_run_changes_does_not_count() -> None:
    """The rates of the groups, an optimiser's switches, the epoch of a sampler, and weights that a function uses."""
    given, net = optimiser(0.1), nn.Linear(2, 2)
    sampler = WeightedRandomSampler([1.0, 2.0], 2)
    trained = [*net.parameters()]
    options = (given, sampler, lambda groups: AdamW(trained, lr=1e-3))
    before = [hash_of(one) for one in options]
    given.param_groups[0]["lr"], given.defaults["fused"], sampler.epoch = 0.01, True, 3  # type: ignore[attr-defined]
    sampler.generator = torch.Generator()
    nn.init.zeros_(net.weight)
    assert [hash_of(one) for one in options] == before


def test_options_without_objects_are_their_text() -> None:
    """The runs of earlier versions continue."""
    options = FitOptions(accumulate=2, freeze=["net.blocks.0"], class_weights=torch.ones(3), init="oat-digits")
    assert options.identified() == options.described()
    assert options.described().keys() == {"accumulate", "freeze", "class_weights", "init"}
