"""`model.at(...)` handed as it is to pyautoattack, Foolbox and ART; our attack is no weaker."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import rheostat
from rheostat.attacks import Attack, named
from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import outcome
from rheostat.points.point import Point
from rheostat.results.intervals import share

EPS, STEPS = 0.2, 20


SEEDS = (0, 1, 2)  # one random start moves RA of 360 images by a point; three are averaged


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return digits[1]


@pytest.fixture(scope="module", params=[0.0, 1.0])
def case(request, sample):
    model = rheostat.load("oat-digits")
    point = Point(robustness=request.param)
    ours = [outcome(model, point, sample, Attack("pgd", EPS, STEPS), seed=s) for s in SEEDS]
    return model.at(point), sum(share(o.robust) for o in ours) / 3, share(ours[0].clean)


def accuracy(model, x, y) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def test_foolbox(case, sample) -> None:
    import foolbox

    model, ours, clean = case
    x, y = to_pixels(sample.images), sample.labels
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * EPS / STEPS, steps=STEPS)
    theirs = 0.0
    for seed in SEEDS:
        torch.manual_seed(seed)
        _, (moved,), _ = attack(wrapped, x, y, epsilons=[EPS])
        theirs += accuracy(model, moved, y) / 3
    assert ours <= theirs + 0.01
    assert ours >= theirs - 0.04  # equal settings: within sampling error
    assert accuracy(model, x, y) == pytest.approx(clean)


def test_art(case, sample) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        model, ours, _ = case
        x, y = to_pixels(sample.images), sample.labels
        classifier = PyTorchClassifier(
            model=model,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=(1, 8, 8),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        attack = ProjectedGradientDescent(
            classifier,
            norm="inf",
            eps=EPS,
            eps_step=2.5 * EPS / STEPS,
            max_iter=STEPS,
            num_random_init=1,
            verbose=False,
            batch_size=360,
        )
        theirs = 0.0
        for seed in SEEDS:
            np.random.seed(seed)  # noqa: NPY002 - the generator that ART draws from
            moved = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
            theirs += accuracy(model, moved, y) / 3
    assert ours <= theirs + 0.01
    assert ours >= theirs - 0.04


def test_pyautoattack(case, sample) -> None:
    from pyautoattack import AutoAttack

    model, ours, _ = case
    x, y = to_pixels(sample.images), sample.labels
    attack = AutoAttack(model, norm="Linf", eps=EPS, version="custom", attacks=["apgd-ce"], device="cpu", seed=0)
    attack.apgd.n_restarts = 1
    moved, _ = attack.run_standard_evaluation(x, y, batch_size=360)
    theirs = accuracy(model, moved, y)
    assert float((moved - x).abs().max()) <= EPS + 1e-5
    # Ours at the same budget is the same attack on the objective of the point.
    same = share(outcome(model.model, model.point, sample, named("apgd-ce", eps=EPS)).robust)
    assert same <= theirs + 0.01
    # PGD of a fifth of the steps is weaker than APGD, never stronger than sampling allows.
    assert theirs - 0.03 <= ours <= theirs + 0.15


def test_a_masking_check_without_gradients(case, sample) -> None:
    model, ours, clean = case
    found = outcome(model.model, model.point, sample, named("square200", eps=EPS))
    assert share(found.robust) < clean - 0.05
    assert share(found.robust) >= ours - 0.02  # no gradient attack is beaten by random search
