"""Version 2 of the tiers: Square runs through its whole schedule, and finds masking that version 1 missed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rheostat import EvaluationOptions, evaluate
from rheostat.attacks import ATTACKS, Attack, named, objective_of
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.target import Target
from rheostat.evaluation.tiers import VERSION, attacks_of

EPS = 0.3
VERSION_1 = "square"
"""What `standard` ran in version 1: 1 000 queries, the beginning of the schedule."""


class Checkered(nn.Module):
    """Falls to perturbations that alternate from pixel to pixel, without a gradient: large squares cannot make them."""

    def __init__(self, images: Tensor, labels: Tensor, threshold: float) -> None:
        super().__init__()
        self.images, self.labels, self.threshold = images, labels, threshold
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        self.pattern = 1.0 - 2.0 * ((rows + columns) % 2)

    def forward(self, x: Tensor) -> Tensor:
        away = (x.detach()[:, None] - self.images[None]).flatten(2).norm(dim=2)
        nearest = away.argmin(1)
        alike = ((x.detach() - self.images[nearest]) * self.pattern).flatten(1).mean(1) / EPS
        margin = 10 * (self.threshold - alike)[:, None]
        return margin * nn.functional.one_hot(self.labels[nearest], 10) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 40)


def test_names_of_squares_keep_their_meaning() -> None:
    plain, whole = named("square5000", eps=EPS), named("square2000-rescaled", eps=EPS)
    assert (plain.kind, plain.steps, plain.name) == ("square", 5000, "square5000")
    assert (whole.kind, whole.steps, whole.name) == ("square-rescaled", 2000, "square2000-rescaled")
    assert whole == Attack("square-rescaled", EPS, 2000)
    assert (named("square", eps=EPS).steps, named("square", eps=EPS).row()["loss"]) == (1000, "margin")
    assert VERSION == 2
    assert [n for n in attacks_of("standard", 10) if n.startswith("square")] == [whole.name]
    with pytest.raises(ValueError, match="is the name of an attack, not a kind"):
        Attack("square2000-rescaled", EPS)


def test_the_schedule_is_that_of_the_paper(monkeypatch, sample) -> None:
    from pyautoattack.square import SquareAttack

    seen: list[tuple[bool, int, float]] = []

    def noted(self, x: Tensor, y: Tensor) -> Tensor:
        seen.append((self.rescale_schedule, self.n_queries, self.p_selection(self.n_queries - 1)))
        return x

    monkeypatch.setattr(SquareAttack, "perturb", noted)
    x, y = to_pixels(sample.images), sample.labels
    objective = objective_of(Checkered(x, y, 0.35), y, loss="margin")
    for name in ("square", "square2000-rescaled"):
        attack = named(name, eps=EPS)
        ATTACKS.get(attack.kind).run(attack, objective, x, None)
    # p starts at 0.8 and is divided by 16 after 500 of 10 000 queries, by 512 after 8 000.
    assert seen == [(False, 1000, 0.8 / 16), (True, 2000, 0.8 / 512)]


def test_masking_that_version_1_missed_is_flagged(sample) -> None:
    x, y = to_pixels(sample.images), sample.labels
    model = Checkered(x, y, 0.35).eval()
    flags, robust = {}, {}
    for last in (VERSION_1, attacks_of("standard", 10)[-1]):
        attacks = [named(n, eps=EPS) for n in ("pgd20", last)]
        rows = evaluate(Target(model, "checkered"), None, attacks, sample, options=EvaluationOptions(probing=False))
        flags[last], robust[last] = set(rows[-1].flags), rows[-1].robust_accuracy
        assert rows[-1].tier_version == VERSION
    assert "square-gain" not in flags[VERSION_1]
    assert "square-gain" in flags["square2000-rescaled"]
    assert robust["square2000-rescaled"] < robust[VERSION_1] - 0.2
