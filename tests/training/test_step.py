"""One training step: what its options do to the loss, and what it leaves of the global generators."""

from __future__ import annotations

import pytest
import torch

from rheostat import data
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import preserved, seed_global, stream
from rheostat.training.loop import build
from rheostat.training.recipe import load_recipe
from rheostat.training.step import Step, batches, sgd, training_attack
from support import plan_of


def loss(smoothing: float, attacked: float | None, *, paper: str = "dual") -> float:
    """The loss of a first step."""
    chosen = load_recipe(
        "oat-digits",
        changes=[f"paper={paper}", "method={}", "attack.steps=1", "train.batch=32", "calibrate_dial=false"],
    )
    train_set, _ = data.load("digits")
    model = build(chosen, train_set)
    sgd(model, chosen)
    x, y = batches(train_set, chosen, 0, 5, Ranks())
    step = Step(model, training_attack(chosen), Ranks(), smoothing, attacked_smoothing=attacked)
    return step.backward(plan_of(model.method, 32, stream(0)), x, y, batch=32, seed=(0,))["loss"]


def test_smoothing_of_attacked_rows_is_theirs_alone() -> None:
    plain, both = loss(0.0, None), loss(0.2, None)
    attacked_only, clean_only = loss(0.0, 0.2), loss(0.2, 0.0)
    assert len({plain, both, attacked_only, clean_only}) == 4
    # The loss is a sum over clean and attacked rows.
    assert attacked_only + clean_only == pytest.approx(plain + both, abs=1e-6)


def test_where_all_rows_are_attacked_it_is_the_smoothing() -> None:
    assert loss(0.0, 0.2, paper="pgd-at") == loss(0.2, None, paper="pgd-at")


def test_global_generators_of_other_devices_are_not_seeded(monkeypatch) -> None:
    """torch.manual_seed also seeds every CUDA device, which nothing then restores."""

    def forbidden(seed: int) -> None:
        raise AssertionError("a CUDA generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbidden)
    monkeypatch.setattr(torch.cuda, "manual_seed", forbidden)
    before = torch.get_rng_state()
    build(load_recipe("oat-digits"), data.load("digits")[0])
    assert torch.equal(torch.get_rng_state(), before)
    cpu = torch.device("cpu")
    with preserved(cpu):
        seed_global(3, cpu)
        drawn = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(3)))
