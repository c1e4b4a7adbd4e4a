"""Passes of an attack compute the gradient of the images alone; passes of training that of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rheostat.attacks import Attack
from rheostat.points.phase import Phase
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.step import Step
from support import images_for, make


class Gradients(TorchDispatchMode):
    """Notes which gradients each backward convolution computes: (input, weight, bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bool, bool, bool]] = []
        self.copies = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution_backward" in str(function):
            self.asked.append(tuple(args[-1]))
        self.copies += "aten.clone" in str(function) or "aten._to_copy" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("paper", ["dual", "oat", "float"])
def test_an_attack_computes_no_gradient_of_a_weight_and_changes_no_layout(paper: str) -> None:
    model = make(paper, "resnet-8").to_layout(torch.channels_last)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step = Step(model, Attack("pgd", 0.1, 2, drop=False), Ranks())
    images, labels = images_for(model, 12), torch.arange(12) % 10
    terms = model.method.plan(12, stream("plan"))
    with Gradients() as attack:
        groups = step.attacked(terms, images, labels, batch=12, seed=(0,))
    assert attack.asked
    assert not any(weight or bias for _, weight, bias in attack.asked)
    if paper != "float":  # which draws noise of its own in every layer
        assert attack.copies < len(attack.asked) / 2  # no change of layout in the layers
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    with Gradients() as training:
        step._pass(groups, 12, (0,), phase=Phase.TRAIN)
    assert all(weight for _, weight, _ in training.asked)
