"""Fitting the dial: which rows are attacked, what their bits are, and that full precision judges them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import rheostat
from rheostat.attacks import named
from rheostat.calibration import dial
from rheostat.calibration.dial import Knot, calibrate_dial, halvings, on_path, undecided
from rheostat.data import Dataset, subset
from rheostat.evaluation.attacked import outcome
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import exact, share

PGD = named("pgd8", eps=0.2)


@pytest.fixture
def model() -> Tunable:
    found = rheostat.load("oat-digits")
    found.dial_map = None
    return found


def planted(monkeypatch: pytest.MonkeyPatch, robust: Callable[[float, Tensor], Tensor]) -> list[tuple[float, int]]:
    """Rows 0 to 99, whose label tells the row, with given robust bits; returns the list of (place, rows attacked)."""
    asked: list[tuple[float, int]] = []

    def made(path: Tunable, point: Point, data: Dataset, attack: object, *, low: bool) -> object:
        u = float(point["robustness"])
        asked.append((u, len(data)))
        return SimpleNamespace(robust=robust(u, data.labels))

    monkeypatch.setattr(dial, "worst_outcome", made)
    return asked


NAMES = tuple(str(i) for i in range(100))
ROWS = Dataset("rows", torch.zeros(100, 1, 8, 8, dtype=torch.uint8), torch.arange(100), NAMES, "calibrate-fit")


def test_the_middle_of_each_range_follows_its_ends() -> None:
    assert halvings(2) == [1, 0]
    assert halvings(5) == [4, 0, 2, 1, 3]
    assert sorted(halvings(9)) == list(range(9))
    assert sorted(halvings(7)) == list(range(7))


def test_only_rows_that_a_place_can_decide_are_attacked() -> None:
    low, high = torch.tensor([0, 0, 1, 1]).bool(), torch.tensor([0, 1, 0, 1]).bool()
    bits = {0.0: low, 1.0: high}
    rows, known = undecided(bits, 0.5, 4, halving=True)
    assert rows.tolist() == [1, 2]
    assert known.tolist() == [False, False, False, True]
    rows, known = undecided(bits, 0.5, 4, halving=False)
    assert rows.tolist() == [0, 1, 2]
    assert known.tolist() == [False, False, False, True]
    rows, _ = undecided({0.0: low}, 1.0, 4, halving=True)
    assert rows.tolist() == [0, 1, 2, 3]


def test_rows_that_rise_are_found_with_few_attacks(model: Tunable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = planted(monkeypatch, lambda u, rows: rows < 100 * u)
    knots = calibrate_dial(model, ROWS, PGD)
    assert all(k.robust == pytest.approx(k.place, abs=0.011) for k in knots)
    assert max(b.robust - a.robust for a, b in itertools.pairwise(knots)) < 0.08
    assert sum(n for _, n in asked) < 100 * len(knots) / 2
    assert [u for u, _ in asked[:3]] == [1.0, 0.0, 0.5]


def test_a_peak_inside_the_dial_is_seen(model: Tunable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: half of the rows stand only around the middle, where they fall at both ends."""
    planted(monkeypatch, lambda u, rows: (rows < 40 * u) | ((rows >= 50) & (abs(u - 0.5) < 0.2)))
    knots = {k.place: k.robust for k in calibrate_dial(model, ROWS, PGD)}
    assert knots[0.5] == pytest.approx(0.7)
    assert knots[0.0] == 0.0
    assert knots[1.0] == pytest.approx(0.4)


def test_few_attacks_measure_what_all_attacks_do(model: Tunable, digits) -> None:
    fit = subset(digits[0], 200)
    attacked: list[int] = []
    hook = model.net.register_forward_pre_hook(lambda _, given: attacked.append(len(given[0])))
    knots = calibrate_dial(model, fit, PGD, precision="fp32")
    few = sum(attacked)
    attacked.clear()
    path = on_path(model, sorted({*(k.place for k in knots), 0.5}))
    full = [share(outcome(path, Point(robustness=k.place), fit, PGD).robust) for k in knots]
    hook.remove()
    assert few < 0.6 * sum(attacked)
    # On its plateau this conditioned model gives other rows at neighbouring places, as many up as down.
    gaps = [k.robust - robust for k, robust in zip(knots, full, strict=True)]
    assert max(abs(g) for g in gaps) < 0.06
    assert abs(sum(gaps) / len(gaps)) < 0.02
    assert gaps[0] == gaps[-1] == 0.0


def test_a_fit_states_its_images_and_is_repeatable(model: Tunable, digits) -> None:
    fit = digits[0]
    first = calibrate_dial(model, fit, PGD, images=50)
    found = model.dial_map
    assert calibrate_dial(model, fit, PGD, images=50) == first
    assert model.dial_map == found
    assert {k.n for k in first} == {50}
    assert first[-1].interval == exact(round(first[-1].robust * 50), 50)
    assert {k.n for k in calibrate_dial(model, subset(fit, 60), PGD)} == {60}
    with pytest.raises(ValueError, match="chosen on test"):
        calibrate_dial(model, replace(fit, split="test"), PGD)
    with pytest.raises(ValueError, match="successes"):
        _ = Knot(0.0, 0.5).interval


def test_a_model_that_errs_in_bf16_alone_is_not_fooled(model: Tunable, digits, monkeypatch) -> None:
    """Planted: in bf16 every logit turns round, so that every image counts as fooled there."""
    read, low = model.net.forward, set()

    def lying(*given: object) -> Tensor:
        turned = torch.is_autocast_enabled("cpu")
        low.add(turned)
        return -read(*given) if turned else read(*given)

    monkeypatch.setattr(model.net, "forward", lying)
    fit = subset(digits[0], 60)
    still = named("pgd8", eps=0.0)
    for u in (0.0, 1.0):
        found = outcome(model, Point(robustness=u), fit, still, low=True)
        assert torch.equal(found.clean, found.robust)
    assert low == {True, False}
    knots = calibrate_dial(model, fit, PGD, precision="bf16")
    clean = [share(outcome(on_path(model, [0.0, 0.5, 1.0]), Point(robustness=u), fit, still).clean) for u in (0.0, 1.0)]
    assert knots[0].robust < clean[0]
    assert knots[-1].robust < clean[1]


@pytest.mark.parametrize(("precision", "expected"), [("fp32", {False}), ("bf16", {True, False})])
def test_attacks_run_in_the_precision_that_is_asked(precision, expected, model: Tunable, digits, monkeypatch) -> None:
    seen: set[bool] = set()
    judged: set[bool] = set()
    read = Tunable.read

    def noted(self: Tunable, x: Tensor, at: object) -> object:
        (seen if torch.is_grad_enabled() else judged).add(torch.is_autocast_enabled("cpu"))
        return read(self, x, at)

    monkeypatch.setattr(Tunable, "read", noted)
    calibrate_dial(model, subset(digits[0], 60), PGD, precision=precision)
    assert seen == expected
    assert False in judged
