"""TRADES and adversarial weight perturbation: their mathematics, and what they must leave alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat import nets
from rheostat.attacks import Attack
from rheostat.attacks.objective import gradient
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.nn.masking import Path as MaskPath
from rheostat.nn.norms import NormSet
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.runtime.distributed import join
from rheostat.runtime.seeding import stream
from rheostat.training.awp import perturb, restore
from rheostat.training.recipe import load_recipe
from rheostat.training.step import Step, sgd
from rheostat.training.trades import away_from, divergence

COMPOSITIONS = ("dual", "oat", "float", "floats", "smart", "oats", "mixing", "pgd-at")


def prepared(paper: str, **options: float) -> tuple[Step, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose(paper))
    sgd(model, load_recipe("oat-digits"))
    attack = Attack("pgd", 0.1, 2, drop=False)
    step = Step(model, attack, join(torch.device("cpu")), **options)  # type: ignore[arg-type]
    x = torch.rand(8, 1, 8, 8, generator=stream("images"))
    return step, x, torch.arange(8) % 10


def run(step: Step, x: Tensor, y: Tensor) -> dict[str, float]:
    terms = step.model.method.plan(len(x), stream("plan"))
    return step.backward(terms, x, y, batch=len(x), seed=("test",))


def test_divergence_is_kullback_leibler() -> None:
    logits, reference = torch.randn(2, 5, 7).unbind(0)
    p, q = reference.softmax(1), logits.softmax(1)
    assert torch.allclose(divergence(logits, reference), (p * (p / q).log()).sum(1), atol=1e-6)
    assert torch.allclose(divergence(reference, reference), torch.zeros(5), atol=1e-6)


def test_the_attack_of_trades_climbs_away_from_the_clean_prediction() -> None:
    step, x, y = prepared("oat")
    level = torch.linspace(0.1, 1, len(x))
    objective = step.model.objective(y, Point(robustness=level), phase=Phase.ATTACK)
    away = away_from(objective, x)
    assert torch.allclose(away(x), torch.zeros(len(x)), atol=1e-6)
    moved = (x + 0.1 * torch.rand_like(x).sign()).clamp(0, 1)
    clean, there = objective.forward(x, None), objective.forward(moved, None)
    expected = F.kl_div(there.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    assert torch.allclose(away(moved), expected, atol=1e-5)
    rows = torch.tensor([5, 1])
    assert torch.allclose(away.only(rows)(moved[rows]), expected[rows], atol=1e-5)
    found, _, fallen = gradient(away, moved)
    assert found.abs().sum() > 0
    assert torch.equal(fallen, there.argmax(1) != y)


def test_what_a_row_costs_under_trades() -> None:
    step, x, y = prepared("pgd-at", trades=6.0)
    (term,) = step.model.method.plan(8, stream("plan"))
    moved = step.perturbed(term, x, y, ("test", 0), (torch.arange(8), 8))
    sums = run(step, x, y)
    both = torch.cat((x, moved))
    logits = step.model.read(both, step.model.resolve(Point(), both, phase=Phase.TRAIN)).logits
    clean, robust = logits.chunk(2)
    expected = F.cross_entropy(clean, y) + 6 * divergence(robust, clean).mean()
    assert sums["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("paper", COMPOSITIONS)
def test_weights_come_back_and_only_the_gradient_differs(paper: str) -> None:
    plain, x, y = prepared(paper)
    pushed, _, _ = prepared(paper, awp=0.02)
    before = {k: v.clone() for k, v in pushed.model.named_parameters()}
    run(plain, x, y)
    run(pushed, x, y)
    for name, parameter in pushed.model.named_parameters():
        assert torch.equal(parameter, before[name])
    gaps = [
        float((a.grad - b.grad).norm() / a.grad.norm().clamp_min(1e-9))  # type: ignore[operator,union-attr]
        for a, b in zip(plain.model.parameters(), pushed.model.parameters(), strict=True)
    ]
    assert max(gaps) > 1e-3
    # The pass at the old weights is not one of training: masks' averages count one pass, and running
    # statistics have moved once (momentum 0.1 of one batch).
    for a, b in zip(plain.model.modules(), pushed.model.modules(), strict=True):
        if isinstance(a, MaskPath):
            assert a.pending.norm() == pytest.approx(float(b.pending.norm()), rel=0.5)  # type: ignore[union-attr]
        if isinstance(a, NormSet):
            assert torch.allclose(a.running_mean, b.running_mean, atol=0.05)  # type: ignore[arg-type]


def test_weights_move_by_gamma_of_their_norm_and_uphill() -> None:
    step, x, y = prepared("pgd-at")
    first = run(step, x, y)["loss"]
    norms = {id(p): float(p.detach().norm()) for p in step.model.parameters()}
    moved = perturb(step.model.parameters(), 0.01)
    assert moved
    for parameter, before in moved:
        assert parameter.ndim >= 2
        assert float((parameter - before).norm().detach()) == pytest.approx(0.01 * norms[id(parameter)], rel=1e-3)
    assert run(step, x, y)["loss"] > first
    restore(moved)
    assert all(torch.equal(p, before) for p, before in moved)


def test_trades_is_refused_where_it_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="composition has exits"):
        load_recipe("rdi-fashion", changes=["train.trades=6"])
    with pytest.raises(ValueError, match="its own divergence"):
        load_recipe("oat-fashion", changes=["train.trades=6", "attack.loss=margin"])
    with pytest.raises(ValueError, match="this fgsm starts at the clean image"):
        load_recipe("oat-fashion", changes=["train.trades=6", "attack.kind=fgsm"])
