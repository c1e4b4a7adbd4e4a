"""Norm statistics estimated anew: images as in training, batches of nearly equal size, all or nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rheostat.attacks import Attack
from rheostat.calibration import calibrate_norms, calibrate_segment
from rheostat.data import Dataset
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from support import NETS

PGD = Attack("pgd", 0.2, 2)
FITS: dict[str, Callable[[Tunable, Dataset, Attack], None]] = {
    "line": lambda m, d, a: calibrate_segment(m, d, a, batch=8),
    "oats": lambda m, d, a: calibrate_norms(m, 0.5, data=d, attack=a, batch=8),
}


def made(paper: str) -> Tunable:
    torch.manual_seed(0)
    model = Tunable(NETS["small_cnn"](), compose(paper))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    return model


def images(model: Tunable, count: int) -> Dataset:
    pixels = torch.randint(0, 256, (count, *model.net.image), dtype=torch.uint8)
    return Dataset("made", pixels, torch.arange(count) % 10, tuple("0123456789"), "calibrate-fit")


@pytest.mark.parametrize("paper", FITS)
def test_an_attack_drops_no_row_as_in_training(paper: str) -> None:
    found = []
    for attack in (PGD, Attack("pgd", 0.2, 2, drop=False)):
        model = made(paper)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        FITS[paper](model, images(model, 16), attack)
        found.append(model.state_dict())
        assert any(not torch.equal(v, before[k]) for k, v in found[-1].items())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


@pytest.mark.parametrize("paper", FITS)
def test_an_image_too_many_is_no_batch_of_its_own(paper: str, monkeypatch) -> None:
    seen: list[int] = []
    read = Tunable.read

    def noted(self: Tunable, x: Tensor, at: object) -> object:
        if not torch.is_grad_enabled():
            seen.append(len(x))
        return read(self, x, at)

    monkeypatch.setattr(Tunable, "read", noted)
    model = made(paper)
    FITS[paper](model, images(model, 17), PGD)
    assert {5, 6} <= set(seen)
    assert 1 not in seen


@pytest.mark.parametrize("paper", FITS)
def test_a_fit_that_fails_midway_changes_nothing(paper: str, monkeypatch) -> None:
    model = made(paper)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    read, calls = Tunable.read, []

    def failing(self: Tunable, x: Tensor, at: object) -> object:
        found = read(self, x, at)
        calls.append(any(not torch.equal(v, before[k]) for k, v in model.state_dict().items()))
        if len(calls) == 7:
            raise ValueError("planted")
        return found

    monkeypatch.setattr(Tunable, "read", failing)
    with pytest.raises(ValueError, match="planted"):
        FITS[paper](model, images(model, 16), PGD)
    assert calls[-1]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
