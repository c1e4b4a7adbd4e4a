"""Selection: one network is measured once, attacks follow the precision of training, and fp32 judges."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rheostat
from rheostat.data import Dataset, subset
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.training import selection
from rheostat.training.loop import train
from rheostat.training.recipe import load_recipe
from rheostat.training.selection import Watch, alike, settings
from support import make

FEW = ("select.images=20", "select.steps=4", "train.epochs=2", "device.precision=fp32")


def watch(data, *changes: str) -> Watch:
    return Watch(load_recipe("oat-digits", changes=[*FEW, *changes]), data, epochs=2)


def noting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    asked: list[tuple[float, str]] = []
    original = selection.worst_outcome

    def noted(model, point, data, attack, **more):
        asked.append((point.numbers()["robustness"], attack.kind))
        return original(model, point, data, attack, **more)

    monkeypatch.setattr(selection, "worst_outcome", noted)
    return asked


@pytest.mark.parametrize(("paper", "expected"), [("dual", [1.0, 0.0]), ("oat", [1.0, 0.2, 0.0])])
def test_points_that_are_one_network_are_measured_once(paper: str, expected: list[float], digits, monkeypatch) -> None:
    few = subset(digits[0], 20)
    model = make(paper, "small_cnn")
    data = Dataset("made", torch.nn.functional.pad(few.images, (2, 2, 2, 2)), few.labels, few.classes, few.split)
    asked = noting(monkeypatch)
    line = watch(data).score(model, 2)
    assert [u for u, kind in asked if kind == "pgd"] == expected
    assert len(line["calibrate"]) == 3
    if paper == "dual":
        second, third = ({**row, "at": None} for row in line["calibrate"][1:])
        assert second == third


def test_the_loss_that_judges_is_an_option(digits, monkeypatch) -> None:
    recipe = load_recipe("oat-digits", changes=[*FEW, "select.loss=margin"])
    losses = []
    original = selection.worst_outcome

    def noted(model, point, data, attack, **more):
        losses.append((attack.kind, attack.loss))
        return original(model, point, data, attack, **more)

    monkeypatch.setattr(selection, "worst_outcome", noted)
    Watch(recipe, digits[0], epochs=2).score(rheostat.load("oat-digits"), 2)
    assert set(losses) == {("pgd", "margin"), ("fgsm", "margin")}


def test_points_that_differ_a_little_are_two_networks() -> None:
    """Planted: the second point differs in the last bit of one weight of the norm."""
    model = make("dual", "small_cnn")
    images = torch.randint(0, 256, (20, *model.net.image), dtype=torch.uint8)
    data = Dataset("made", images, torch.zeros(20, dtype=torch.int64), ("0",), "calibrate-fit")
    view, points = settings(model, (0.0, 0.2, 1.0))
    assert alike(view, points[1], points[2], data)
    assert not alike(view, points[0], points[1], data)
    assert not alike(model, Point(robustness=0.999), Point(robustness=1.0), data)  # a blend
    noisy = make("float", "small_cnn")
    if noisy.method.randomised(noisy.complete(Point(robustness=1.0))):
        assert not alike(noisy, Point(robustness=1.0), Point(robustness=1.0), data)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", {False}), ("bf16", {True, False})])
def test_selection_attacks_in_the_precision_of_training(
    precision: str, expected: set[bool], digits, monkeypatch
) -> None:
    seen: set[bool] = set()
    clean: set[bool] = set()
    read = Tunable.read

    def noted(self: Tunable, x: Tensor, at: object) -> object:
        (seen if torch.is_grad_enabled() else clean).add(torch.is_autocast_enabled("cpu"))
        return read(self, x, at)

    monkeypatch.setattr(Tunable, "read", noted)
    model = rheostat.load("oat-digits")
    low = watch(digits[0], f"device.precision={precision}").score(model, 2)
    assert seen == expected
    assert False in clean
    full = watch(digits[0]).score(model, 2)
    assert low["score"] == pytest.approx(full["score"], abs=0.06)
    for a, b in zip(low["calibrate"], full["calibrate"], strict=True):
        assert a["clean_accuracy"] == b["clean_accuracy"]


@pytest.mark.parametrize(
    ("last", "average", "kept"), [(0.6, 0.4, "last"), (0.4, 0.6, "average"), (0.5, 0.5, "average")]
)
def test_the_average_is_kept_only_if_it_scores_as_high_as_the_last_weights(
    last: float, average: float, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An average that lags behind cost 11 points of SA, because the last weights were no candidates."""
    small = ["train.max_steps=3", "train.batch=32", "attack.steps=2", "calibrate_dial=false"]
    plain = train(load_recipe("oat-digits", changes=small), out=tmp_path / "plain")
    scores = itertools.cycle([last, average])
    monkeypatch.setattr(Watch, "score", lambda self, model, epoch, **_: {"score": next(scores)})
    done = train(load_recipe("oat-digits", changes=[*small, "train.ema=0.5"]), out=tmp_path / "averaged")
    assert done.progress.epochs[-1]["weights"] == kept
    assert done.progress.best_score == max(last, average)
    same = all(torch.equal(v, plain.model.state_dict()[k]) for k, v in done.model.state_dict().items())
    assert same == (kept == "last")
