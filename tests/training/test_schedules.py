"""Learning rates: every step of every schedule, by torch's scheduler, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from rheostat.training.recipe import Recipe, load_recipe, names
from rheostat.training.schedules import milestones, scheduler, share_of_rate


def recipe(*changes: str) -> Recipe:
    return load_recipe("oat-digits", changes=list(changes))


def rates(chosen: Recipe, total: int, *, first: int = 0) -> list[float]:
    """The rates that the optimiser has at the steps of a run, from `first` on, as in a continued one."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=chosen.train.lr)
    found = scheduler(optimiser, chosen, total, done=first)
    out = []
    for _ in range(first, total):
        out.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        found.step()
    return out


def written_out(schedule: str, lr: float, step: int, total: int) -> float:
    """The rates before they were torch's: cosine to 0; up over 30 % and down by a cosine; constant."""
    if schedule == "constant":
        return lr
    if schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * step / total))
    rise = 0.3 * total
    if step < rise:
        return lr * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / rise)))
    return lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))


@pytest.mark.parametrize("total", [1, 7, 100, 937])
@pytest.mark.parametrize("lr", [0.1, 0.033, 0.3])
@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
def test_every_rate_is_to_the_bit_what_it_was(schedule: str, lr: float, total: int) -> None:
    found = rates(recipe(f"train.schedule={schedule}", f"train.lr={lr}"), total)
    assert found == [written_out(schedule, lr, step, total) for step in range(total)]


@pytest.mark.parametrize("first", [1, 30, 99])
@pytest.mark.parametrize(
    "changes",
    [
        ("train.schedule=cosine",),
        ("train.schedule=one-cycle", "train.warmup=0.2"),
        ("train.schedule=multi-step", "train.milestones=[0.3, 0.99]"),
    ],
)
def test_a_continued_run_takes_the_rates_of_a_whole_one(changes: tuple[str, ...], first: int) -> None:
    chosen = recipe(*changes)
    assert rates(chosen, 100, first=first) == rates(chosen, 100)[first:]


def test_multi_step_is_torchs_own() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimiser, [32, 48], 0.1)
    expected = []
    for _ in range(64):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    for places in ("[32, 48]", "[0.5, 0.75]"):
        found = rates(recipe("train.lr=0.1", "train.schedule=multi-step", f"train.milestones={places}"), 64)
        assert found == pytest.approx(expected, rel=1e-12)


def test_warm_up_rises_linearly_to_the_schedule() -> None:
    plain, warm = (recipe("train.lr=0.2", "train.schedule=constant", f"train.warmup={w}") for w in (0, 0.1))
    assert rates(warm, 100)[:10] == pytest.approx([0.02 * (i + 1) for i in range(10)])
    assert rates(warm, 100)[10:] == rates(plain, 100)[10:]


@pytest.mark.parametrize(
    ("name", "total", "lr", "falls"),
    [
        ("rdi-mnist", 13_100, 0.033, [11_700, 12_900]),
        ("rdi-cifar10", 64_000, 0.1, [32_000, 48_000]),
        ("rdi-cifar10-mobilenet", 82_000, 0.05, [61_700, 70_000, 78_000]),
    ],
)
def test_recipes_of_rdi_nets_have_the_papers_schedule(name: str, total: int, lr: float, falls: list[int]) -> None:
    chosen = load_recipe(name)
    assert chosen.train.max_steps == total
    assert milestones(chosen, total) == falls
    share = share_of_rate(chosen, total)
    found = [chosen.train.lr * share(step) for step in range(total)]
    assert found[0] == lr
    steps = [i for i in range(1, total) if found[i] != found[i - 1]]
    assert steps == falls
    assert found[-1] == pytest.approx(lr * 0.1 ** len(falls))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (("train.schedule=multi-step",), "needs at least one"),
        (("train.milestones=[0.5]",), "milestones belong to 'multi-step'"),
        (("train.schedule=multi-step", "train.milestones=[0.5, 100]"), "as shares of training"),
        (("train.schedule=multi-step", "train.milestones=[200, 100]"), "must rise"),
        (("train.schedule=multi-step", "train.milestones=[10.5, 100]"), "whole steps"),
    ],
)
def test_milestones_without_a_meaning_are_refused(changes: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        recipe(*changes)


def test_every_recipe_has_a_schedule() -> None:
    assert all(len(rates(load_recipe(name), 10)) == 10 for name in names())


def test_a_rate_by_epoch_is_that_of_the_epochs_first_step() -> None:
    chosen = load_recipe("oat-digits", changes=["train.schedule=cosine", "train.rate_by=epoch"])
    by_epoch = share_of_rate(chosen, 30, per_epoch=10)
    by_step = share_of_rate(chosen.changed(train={"rate_by": "step"}), 30, per_epoch=10)
    assert [by_epoch(step) for step in range(30)] == [by_step(step // 10 * 10) for step in range(30)]
    assert len({by_epoch(step) for step in range(30)}) == 3
