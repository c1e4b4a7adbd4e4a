"""Calibrations judge in full fp32, whatever their caller set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch

from rheostat.attacks import Attack
from rheostat.calibration.dial import calibrate_dial
from rheostat.calibration.exit_policy import fit_policy
from rheostat.calibration.mixednuts import fit_nonlinearity
from rheostat.calibration.segment import calibrate_segment
from rheostat.calibration.statistics import calibrate_norms, estimate_statistics
from rheostat.calibration.temperature import logits_of
from rheostat.data import Dataset
from rheostat.evaluation.corrupted import evaluate_corruptions
from rheostat.methods.composition import compose
from rheostat.models.tunable import Tunable
from rheostat.nets.base import Net
from rheostat.points.point import Point
from support import NETS

FGSM = Attack("fgsm", 0.1)
NAMES = tuple("0123456789")
JUDGED: dict[str, tuple[str, Callable[[Tunable, Dataset], object]]] = {
    "dial": ("oat", lambda m, d: calibrate_dial(m, d, FGSM, coarse=2, most=2)),
    "norms": ("oats", lambda m, d: calibrate_norms(m, 0.5, data=d, attack=FGSM)),
    "exits": ("rdi", fit_policy),
    "nonlinearity": ("mixednuts", lambda m, d: fit_nonlinearity(m, d, FGSM)),
    "segment": ("line", lambda m, d: calibrate_segment(m, d, FGSM)),
    "statistics": ("dual", lambda m, d: estimate_statistics(m, Point(), d, FGSM, attacked=0.0)),
    "temperature": ("dual", lambda m, d: logits_of(m.at(Point()), d)),
    "corruptions": ("dual", lambda m, d: evaluate_corruptions(m, None, d, kinds=("fog",), severities=(1,))),
}


def noting(passing: Callable[..., object], seen: set[tuple[bool, bool]]) -> Callable[..., object]:
    """A pass of a network that notes whether it is under autocast, and whether under TF32."""

    def noted(self: Net, *given: object) -> object:
        seen.add((torch.is_autocast_enabled("cpu"), torch.backends.cuda.matmul.allow_tf32))
        return passing(self, *given)

    return noted


def made(which: str) -> tuple[Tunable, Dataset]:
    paper, _ = JUDGED[which]
    torch.manual_seed(0)
    options = {"norms": "re-estimated", "sets": 1} if paper == "line" else {}
    model = Tunable(NETS["small_cnn"](), compose(paper, **options))
    images = torch.randint(0, 256, (10, *model.net.image), dtype=torch.uint8)
    split = "test" if which == "corruptions" else "calibrate-fit"
    return model, Dataset("made", images, torch.arange(10), NAMES, split)


@pytest.mark.parametrize("which", sorted({*JUDGED} - {"temperature"}))  # which moves one batch at a time
def test_the_data_move_to_the_device_of_the_model(which: str, monkeypatch) -> None:
    model, dataset = made(which)
    moved: list[torch.device] = []
    to = Dataset.to

    def noted(self: Dataset, device: torch.device) -> Dataset:
        moved.append(device)
        return to(self, device)

    monkeypatch.setattr(Dataset, "to", noted)
    with contextlib.suppress(ValueError):  # nothing to fit in noise
        JUDGED[which][1](model, dataset)
    assert set(moved) == {next(model.parameters()).device}


@pytest.mark.parametrize("which", JUDGED)
def test_a_calibration_is_in_full_precision_whatever_its_caller_set(which: str, monkeypatch) -> None:
    _, judge = JUDGED[which]
    model, dataset = made(which)
    seen: set[tuple[bool, bool]] = set()
    for passing in ("forward", "features"):
        monkeypatch.setattr(Net, passing, noting(getattr(Net, passing), seen))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), contextlib.suppress(ValueError):  # nothing to fit in noise
            judge(model, dataset)
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {(False, False)}
