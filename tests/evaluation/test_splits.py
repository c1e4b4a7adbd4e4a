"""Rows name the split of their data, and nothing is chosen or fitted on the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import rheostat
from rheostat.attacks import Attack
from rheostat.calibration.mixednuts import fit_nonlinearity
from rheostat.calibration.segment import calibrate_segment
from rheostat.calibration.statistics import calibrate_norms, estimate_statistics
from rheostat.data import Dataset, make_splits, subset
from rheostat.evaluation.corrupted import evaluate_corruptions
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from support import NETS

FGSM = Attack("fgsm", 0.1)
CHOOSE = EvaluationOptions(split="calibrate-choose")


@pytest.fixture(scope="module")
def model():
    return rheostat.load("oat-digits")


def test_rows_name_the_split_of_their_data(model, digits) -> None:
    splits = make_splits(*digits, calibrate=40)
    for part, split in ((splits.choose, "calibrate-choose"), (splits.test, "test"), (splits.train, "train")):
        few = subset(part, 10)
        assert evaluate(model, "robustness=1", FGSM, few)[-1].split == split
        assert evaluate(model, "robustness=1", FGSM, few, options=EvaluationOptions(split=split))[-1].split == split
        (row,) = evaluate_corruptions(model, "robustness=1", few, severities=(1,), kinds=["fog"])
        assert row.split == split
    unmarked = replace(subset(splits.test, 10), split="")
    assert evaluate(model, "robustness=1", FGSM, unmarked)[-1].split == "test"
    assert evaluate(model, "robustness=1", FGSM, unmarked, options=CHOOSE)[-1].split == "calibrate-choose"


def test_images_of_test_are_not_recorded_under_another_split(model, digits) -> None:
    message = r"of the split 'test', but the options say split='calibrate-choose'; leave split out"
    with pytest.raises(ValueError, match=message):
        evaluate(model, "robustness=1", FGSM, digits[1], options=CHOOSE)
    with pytest.raises(ValueError, match=message):
        evaluate_corruptions(model, "robustness=1", digits[1], options=CHOOSE)


@pytest.mark.parametrize(
    ("paper", "fit"),
    [
        ("oats", lambda m, d: calibrate_norms(m, 0.5, data=d, attack=FGSM)),
        ("mixednuts", lambda m, d: fit_nonlinearity(m, d, FGSM)),
        ("line", lambda m, d: calibrate_segment(m, d, FGSM)),
        ("dual", lambda m, d: estimate_statistics(m, Point(), d, FGSM, attacked=0.0)),
    ],
)
def test_nothing_is_fitted_on_the_test_split(paper: str, fit: Callable[[Tunable, Dataset], object]) -> None:
    model = Tunable(NETS["small_cnn"](), compose(paper))
    images = torch.zeros(10, *model.net.image, dtype=torch.uint8)
    with pytest.raises(ValueError, match="this is the test split"):
        fit(model, Dataset("made", images, torch.arange(10), tuple("0123456789"), "test"))
