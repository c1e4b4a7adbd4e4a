"""Images rounded to 8 bits are judged beside those that an attack returns: a model may hide from off-grid pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rheostat
from rheostat import EvaluationOptions, Point, evaluate
from rheostat.attacks import named
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation import chunks
from rheostat.evaluation.attacked import attack_chunk, outcome, victim_at
from rheostat.evaluation.chunks import Task, measured
from rheostat.evaluation.target import Target
from rheostat.points.grid import parse_grid
from support import make

EPS = 0.3
"""No whole number of levels, so that an attack's images lie off the grid."""


def off_grid(x: Tensor) -> Tensor:
    """(B, 1) whether any pixel lies between the values of 8 bits."""
    return ((x * 255 - (x * 255).round()).abs().flatten(1).amax(1) > 1e-2)[:, None]


class Hiding(nn.Module):
    """Answers as for the nearest image that it knows wherever a pixel lies off the grid; its gradient is true."""

    def __init__(self, images: Tensor, labels: Tensor, robustness: float = 0.0) -> None:
        super().__init__()
        self.inner = rheostat.load("oat-digits").at(robustness=robustness).unchecked()
        self.images, self.labels = images, labels

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        nearest = (x.detach()[:, None] - self.images[None]).flatten(2).norm(dim=2).argmin(1)
        known = 100 * nn.functional.one_hot(self.labels[nearest], 10).float()
        return torch.where(off_grid(x.detach()), 0.01 * logits + known, logits)


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 100)


@pytest.fixture(scope="module")
def hiding(sample) -> Hiding:
    return Hiding(to_pixels(sample.images), sample.labels).eval()


def test_a_model_that_detects_off_grid_pixels_is_not_robust(hiding, sample) -> None:
    attack = named("pgd20-margin", eps=EPS)
    old = outcome(hiding, None, sample, attack)  # images as the attack returns them, which was all that was judged
    assert old.robust.double().mean() > 0.9
    for probing in (False, True):
        rows = evaluate(Target(hiding, "hiding"), None, [attack], sample, options=EvaluationOptions(probing=probing))
        assert rows[-1].robust_accuracy < 0.05
        assert rows[-1].robust_accuracy_returned > 0.9
        assert rows[-1].robust_accuracy_rounded == rows[-1].robust_accuracy
        assert "on-grid-gain" in rows[-1].flags
    figures = next(c for c in rows[-1].checks if c.flag == "on-grid-gain").figures
    assert figures["gain"] > 0.85


def test_a_sound_model_is_not_flagged_and_both_accuracies_are_kept(sample) -> None:
    model = rheostat.load("oat-digits")
    attacks = [named(n, eps=EPS) for n in ("fgsm", "pgd20", "apgd-ce")]
    rows = evaluate(model, "robustness=0,1", attacks, sample)
    for row in rows:
        assert "on-grid-gain" not in row.flags
        apart = (row.robust_accuracy_returned, row.robust_accuracy_rounded)
        assert row.robust_accuracy <= min(apart)
        assert min(apart) < row.clean_accuracy
    for point in (0.0, 1.0):
        ladder = [r for r in rows if r.at == {"robustness": point}]
        for field in ("robust_accuracy", "robust_accuracy_returned", "robust_accuracy_rounded"):
            shares = [getattr(r, field) for r in ladder]
            assert shares == sorted(shares, reverse=True)
    # What the attack returns is judged as before.
    alone = outcome(model, model.complete(Point(robustness=1.0)), sample, attacks[0])
    assert rows[4].robust_accuracy_returned == pytest.approx(float(alone.robust.double().mean()))


def test_the_image_that_counts_is_the_one_that_fooled(hiding, sample) -> None:
    x, y = to_pixels(sample.images), sample.labels
    found = attack_chunk(victim_at(hiding), x, y, named("pgd20-margin", eps=EPS), (0,))
    assert torch.equal(~found.robust & found.clean, found.fooled.any(0))
    only = found.fooled[1] & ~found.fooled[0]
    assert only.sum() > 80
    assert not off_grid(found.adversarial[only]).any()
    assert not found.unverified.any()
    with torch.no_grad():
        assert (hiding(found.adversarial[only]).argmax(1) != y[only]).all()


def test_images_lent_and_made_elsewhere_are_rounded_too(sample, monkeypatch) -> None:
    model = rheostat.load("oat-digits")
    looked: list[int] = []

    def noted(moved: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
        looked.append(len(moved))
        return torch.zeros_like(moved)  # an image that fools nearly always

    monkeypatch.setattr(chunks, "on_grid", noted)
    points = tuple(model.complete(p) for p in parse_grid("robustness=0,1"))
    x, y = to_pixels(sample.images), sample.labels
    record = measured(Task(model, points, (named("fgsm", eps=0.1),), warm=True), x, y, 0)
    assert len(looked) == 1  # of the images lent, those that fool are rounded too
    by_lent = record["clean"][1] & ~record["standing"][1, 0]
    assert by_lent.sum() > 3
    assert (record["alone"][1, 0, 1] & by_lent).sum() < 3
    assert torch.equal(record["standing"], record["alone"].all(2))
    looked.clear()
    record = measured(Task(model, points, (named("fgsm", eps=0.1),), transfer=True), x, y, 0)
    assert looked == [100] * 5  # of two points: where an attack stops, and after its last step; of both points: one
    assert record["unknown"].float().mean() < 0.3


def test_an_attack_on_cost_counts_the_dearer_of_both_images() -> None:
    model = make("rdi", "resnet-8").eval()
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (40,), generator=generator)
    rheostat.fit_policy(model, Dataset("noise", images, labels, tuple("0123456789"), "calibrate-fit"))
    victim = victim_at(model, Point(exit=1.0))
    assert victim.route is not None
    last = victim.route(images / 255).max()
    hidden = type(victim)(
        victim.objective,
        victim.randomised,
        lambda x: torch.where(off_grid(x)[:, 0], torch.zeros(len(x), dtype=torch.int64), last),
    )
    attack = named("pgd5@slowdown", eps=EPS)
    found = attack_chunk(hidden, images / 255, labels, attack, (0,), every=True)
    assert (found.exits[1] == last).all()
    old = attack_chunk(hidden, images / 255, labels, attack, (0,), every=True, rounded=False)
    assert (old.exits[1] == 0).all()
