"""Attacks: closed forms on a linear model, budgets, dropping, and agreement with other libraries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheostat.attacks import LOSSES, Attack, Objective, named, objective_of, project, training_step_size
from rheostat.attacks.fgsm import fgsm
from rheostat.attacks.n_fgsm import n_fgsm
from rheostat.attacks.pgd import pgd


class Linear(nn.Module):
    """Two logits, ±w·x: the worst perturbation is known in closed form."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


@pytest.fixture
def linear() -> tuple[Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(1, 4, 4)
    x = 0.4 + 0.2 * torch.rand(7, 1, 4, 4)  # far from the box, so that only the ball binds
    return Linear(weight), x, torch.zeros(7, dtype=torch.long)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_linf_closed_form(linear, loss: str) -> None:
    model, x, y = linear
    moved = pgd(objective_of(model, y, loss=loss), x, eps=0.1, steps=10)
    assert torch.allclose(moved, x - 0.1 * model.weight.sign(), atol=1e-6)
    assert torch.allclose(fgsm(objective_of(model, y), x, eps=0.1), moved, atol=1e-6)


def test_l2_closed_form(linear) -> None:
    model, x, y = linear
    moved = pgd(objective_of(model, y, loss="margin"), x, eps=0.3, steps=20, norm="l2", start=False)
    expected = x - 0.3 * model.weight / model.weight.norm()
    assert torch.allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_a_gradient_too_small_for_its_squares_is_still_followed(linear, momentum: float) -> None:
    """Planted: gradients of CE of 1e-19 to 1e-32, and gradients of 0, which move nothing."""
    model, x, _ = linear
    for scale, reached in ((30.0, 0.3), (1000.0, 0.0)):
        sharp = Linear(scale * model.weight)
        with torch.no_grad():
            y = sharp(x).argmax(1)
        moved = pgd(objective_of(sharp, y), x, eps=0.3, steps=20, norm="l2", start=False, momentum=momentum)
        away = torch.where(y == 0, -reached, reached).reshape(-1, 1, 1, 1)
        assert torch.allclose(moved, x + away * model.weight / model.weight.norm(), atol=1e-5)


def test_momentum_restarts_and_given_starts_reach_the_same_corner(linear) -> None:
    model, x, y = linear
    corner = x - 0.1 * model.weight.sign()
    objective = objective_of(model, y)
    for options in ({"momentum": 1.0}, {"restarts": 3}, {"start": torch.full_like(x, 0.05)}):
        moved = pgd(objective, x, eps=0.1, steps=10, **options)
        assert torch.allclose(moved, corner, atol=1e-6)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 1.0, 4.0]])
    y = torch.tensor([0, 3])
    assert torch.allclose(LOSSES["margin"](logits, y), torch.tensor([-1.0, 1.0]))
    assert torch.allclose(LOSSES["dlr"](logits, y), torch.tensor([-1 / 2, 1 / 4]))
    assert torch.allclose(LOSSES["ce"](logits, y), -logits.log_softmax(1)[[0, 1], y])


def test_dropping_spends_less_and_finds_no_less() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    x = torch.rand(60, 1, 4, 4)
    with torch.no_grad():
        y = net(x).argmax(1)
    seen = []

    def forward(images: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        seen.append(len(images))
        return net(images)

    found = {}
    for drop in (False, True):
        seen.clear()
        objective = Objective(forward, y)
        generator = torch.Generator().manual_seed(0)
        moved = pgd(objective, x, eps=0.08, steps=10, drop=drop, generator=generator)
        found[drop] = (net(moved).argmax(1) != y, sum(seen))
    assert 0 < int(found[False][0].sum()) < 60
    assert bool((found[True][0] | ~found[False][0]).all())
    assert found[True][1] < found[False][1]


def test_a_row_start_does_not_depend_on_who_else_stands() -> None:
    x = torch.rand(5, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    y = torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        y[:] = model(x).argmax(1)
    runs = [
        pgd(
            objective_of(model, y),
            x,
            eps=1e-6,
            steps=1,
            restarts=2,
            drop=drop,
            generator=torch.Generator().manual_seed(4),
        )
        for drop in (True, True)
    ]
    assert torch.equal(*runs)


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0, 0.6),
    steps=st.integers(1, 4),
    size=st.floats(0.001, 1.0),
    norm=st.sampled_from(["linf", "l2"]),
    momentum=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 99),
)
def test_every_attack_stays_in_ball_and_box(eps, steps, size, norm, momentum, seed) -> None:
    torch.manual_seed(seed)
    x = torch.rand(3, 1, 3, 3).round(decimals=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    y = torch.randint(0, 4, (3,))
    moved = pgd(objective_of(model, y), x, eps=eps, steps=steps, step_size=size, norm=norm, momentum=momentum)
    delta = (moved - x).flatten(1)
    reach = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert float(reach.max()) <= eps + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1


def test_n_fgsm_leaves_the_ball_but_not_the_box() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    y = torch.zeros(64, dtype=torch.long)
    moved = n_fgsm(objective_of(model, y), x, eps=0.1, generator=torch.Generator().manual_seed(0))
    reach = float((moved - x).abs().max())
    assert 0.1 < reach <= 0.3 + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1


def test_names_budgets_and_mistakes() -> None:
    attack = named("pgd50x5-dlr", eps=0.1)
    assert (attack.steps, attack.restarts, attack.loss) == (50, 5, "dlr")
    assert attack.size == pytest.approx(2.5 * 0.1 / 50)
    assert named("fgsm", eps=0.1).size == 0.1
    assert training_step_size(8 / 255, 7) == pytest.approx(10 / 255 / 7)
    assert training_step_size(0.3, 7) == pytest.approx((0.3 + 4 / 255) / 7)
    for bad in ("pgd", "pgd0", "pgd20-crossentropy", "apgdx"):
        with pytest.raises(ValueError, match="allowed: apgd-ce"):
            named(bad, eps=0.1)
    with pytest.raises(ValueError, match="did you mean 'linf'"):
        Attack("pgd", 0.1, norm="linff")
    with pytest.raises(ValueError, match="must not be negative"):
        Attack("pgd", -0.1)
    assert torch.equal(project(torch.tensor([[[[3.0]]]]), 1.0, "l2"), torch.ones(1, 1, 1, 1))


def test_auto_pgd_averages_its_gradients_over_draws() -> None:
    passes: list[int] = []

    class Certain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes.append(len(x))
            return torch.cat((100 + x.flatten(1)[:, :1], x.flatten(1)), 1)

    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long)
    counts = []
    for draws in (1, 5):
        passes.clear()
        Attack("apgd-ce", 0.1, 10, eot=draws)(objective_of(Certain(), y), x)
        counts.append(len(passes))
    assert counts[1] - counts[0] == 4 * 11  # the start and 10 steps


def test_square_in_l2_refuses_just_the_sizes_that_it_cannot_tile(monkeypatch) -> None:
    attack = Attack("square", 1e-3, 1, norm="l2")
    sizes = [(h, w) for h in range(3, 37) for w in (h, h + 2, 2 * h, max(h - 3, 1))]

    def refused(height: int, width: int) -> bool:
        x = torch.full((2, 1, height, width), 0.5)
        objective = objective_of(Linear(torch.ones(1, height, width)), torch.zeros(2, dtype=torch.int64))
        try:
            attack(objective, x)
        except (ValueError, RuntimeError, ZeroDivisionError):
            return True
        return False

    found = [size for size in sizes if refused(*size)]
    assert {h for h, w in found if h == w} == {3, 4, 12, 14, 18, 19, 24}
    with pytest.raises(ValueError, match="square1 in L2 cannot take images of 28 × 30"):
        attack.check_size(28, 30)
    with pytest.raises(ValueError, match="autoattack in L2 cannot take images of 24 × 24"):
        Attack("autoattack", 0.5, norm="l2").check_size(24, 24)
    Attack("square", 0.1).check_size(24, 24)  # L∞ takes any size
    monkeypatch.setattr("rheostat.attacks.square.check_tiles", lambda *given, **more: None)
    assert [size for size in sizes if refused(*size)] == found


def test_dlr_of_two_classes_is_refused(linear) -> None:
    model, x, y = linear
    with pytest.raises(ValueError, match="needs at least 3 classes, this model has 2; use the loss 'margin'"):
        named("pgd20-dlr", eps=0.1)(objective_of(model, y, loss="dlr"), x)
