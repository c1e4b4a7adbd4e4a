"""One step of every composition gives the loss and the gradients it gave before.

A change that should not alter the computation leaves these numbers. Whoever means to change them rewrites the
file with

    WRITE_GOLDENS=1 python -m pytest tests/contract/test_golden_losses.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from rheostat.attacks import Attack
from rheostat.methods import COMPOSITIONS
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.files import write_text
from rheostat.training.step import Step
from support import images_for, make, plan_of

FILE = Path(__file__).with_name("golden_losses.json")
BATCH = 12


def step_of(paper: str) -> dict[str, float]:
    """Loss and norm of the gradient of one step on fixed weights and images.

    The attack is an L2 one: its steps are continuous in the gradient, those of an L∞ one are signs, and the sign
    of a number near 0 differs by machine.
    """
    model = make(paper, "resnet-8")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    terms = plan_of(model.method, BATCH, torch.Generator().manual_seed(0))
    step = Step(model, Attack("pgd", 0.5, 2, 0.25, "l2", drop=False), Ranks())
    sums = step.backward(terms, images_for(model, BATCH), torch.arange(BATCH) % 10, batch=BATCH, seed=(0,))
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
    return {"loss": sums["loss"], "gradient": squares**0.5}


@pytest.fixture(scope="module")
def goldens() -> dict[str, dict[str, float]]:
    """The numbers of the file; rewritten first where that is asked for."""
    if os.environ.get("WRITE_GOLDENS"):
        found = {
            paper: {k: float(f"{v:.8g}") for k, v in step_of(paper).items()} for paper in sorted(COMPOSITIONS.names())
        }
        write_text(FILE, json.dumps(found, indent=2) + "\n")
    return json.loads(FILE.read_text())


def test_every_composition_has_goldens(goldens: dict[str, dict[str, float]]) -> None:
    assert sorted(goldens) == sorted(COMPOSITIONS.names())


@pytest.mark.parametrize("paper", sorted(COMPOSITIONS.names()))
def test_one_step_is_golden(paper: str, goldens: dict[str, dict[str, float]]) -> None:
    found = step_of(paper)
    assert found["loss"] == pytest.approx(goldens[paper]["loss"], rel=1e-5)
    assert found["gradient"] == pytest.approx(goldens[paper]["gradient"], rel=1e-4)
