"""Attack in bf16, judge in fp32: as strong as fp32, never fooled by bf16 itself, and said in the rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rheostat
from rheostat.attacks import ATTACKS, Attack, named
from rheostat.attacks.objective import objective_of
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.lowering import lowered
from rheostat.evaluation.options import EvaluationOptions
from rheostat.results.bits import read_bits
from rheostat.results.curves import key_of
from rheostat.results.labels import attacks_label
from rheostat.results.row import Row
from rheostat.results.rows import read_rows
from rheostat.runtime import precision

LOW = EvaluationOptions(attack_precision="bf16")


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 200)


def low() -> bool:
    return torch.is_autocast_enabled("cpu")


class Watched(nn.Module):
    """The packaged model at its robust end, which notes the precision of its passes, and may lie in bf16."""

    def __init__(self, lie: float = 1.0) -> None:
        super().__init__()
        self.inner = rheostat.load("oat-digits").at(robustness=1.0)
        self.lie, self.passes = lie, {True: 0, False: 0}

    def forward(self, x: Tensor) -> Tensor:
        self.passes[low()] += len(x)
        logits: Tensor = self.inner(x)
        return logits * self.lie if low() else logits


def test_an_attack_in_bf16_is_as_strong_as_one_in_fp32(sample: Dataset, tmp_path: Path) -> None:
    """RA not above fp32's by more than 0.2 point and noise: here one image of 200."""
    model = rheostat.load("oat-digits")
    found = {}
    for name in ("fp32", "bf16"):
        options = EvaluationOptions(attack_precision=name, eps=0.2, out=tmp_path / "rows.jsonl")
        found[name] = evaluate(model, "robustness=1", "pgd20", sample, options=options)
    for full, made_low in zip(found["fp32"], found["bf16"], strict=True):
        assert made_low.robust_accuracy <= full.robust_accuracy + 0.005
        assert made_low.clean_accuracy == full.clean_accuracy  # judged in fp32
        assert (full.attack_precision, made_low.attack_precision) == ("fp32", "bf16")
        assert made_low.precision == "fp32"
        assert (attacks_label(full), attacks_label(made_low)) == ("pgd20", "pgd20 in bf16")
        # Other measurements: they stand beside one another, and no curve joins them.
        assert full.identity != made_low.identity
        assert key_of(full) != key_of(made_low)
    kept = read_rows(tmp_path / "rows.jsonl")
    assert len(kept) == 4
    assert all(len(read_bits(tmp_path / "rows.jsonl").of(r)[1]) == 200 for r in kept)


def test_rows_of_before_keep_their_identity() -> None:
    """The field is part of what makes a row distinct only where it is not fp32."""
    from support import made_row

    row = made_row()
    assert row.identity == Row(**{**dict(row), "attack_precision": "fp32"}).identity == "5b2747b1735d629a"


def test_a_model_that_errs_in_bf16_alone_is_not_fooled(sample: Dataset) -> None:
    """Planted: in bf16 every logit turns round, so that every clean image counts as fooled there."""
    model = Watched(lie=-1.0)
    (row, _) = evaluate(model, None, "pgd20", sample, options=EvaluationOptions(attack_precision="bf16", eps=0.0))
    assert row.robust_accuracy == row.clean_accuracy > 0.9
    # With a radius the last steps in fp32 find what they can; each success is one of fp32.
    attack, few = named("pgd20", eps=0.2), subset(sample, 40)
    images, labels = to_pixels(few.images), few.labels
    judge = objective_of(model, labels)

    def fooled(made: Tensor) -> Tensor:
        assert not low()
        return judge.judge(made)[1]

    moved = lowered(
        attack, judge, images, torch.Generator().manual_seed(0), share=(torch.arange(40), 40), fooled=fooled
    )
    assert float((moved - images).abs().max()) <= 0.2 + 1e-6
    assert 0 < int(fooled(moved).sum()) < 40


def test_passes_of_the_attack_are_low_and_those_that_judge_are_not(sample: Dataset) -> None:
    few = subset(sample, 40)
    passes = {}
    for name in ("fp32", "bf16"):
        model = Watched()
        options = EvaluationOptions(attack_precision=name, eps=0.2)
        rows = evaluate(model, None, "pgd20", few, options=options)
        passes[name] = model.passes
        assert rows[0].queries is not None
    assert passes["fp32"][True] == 0
    assert passes["bf16"][True] > 40 > 0
    assert passes["bf16"][False] < passes["fp32"][False]  # the last quarter of the steps, and judging


@pytest.mark.parametrize("name", ["pgd20", "mi-fgsm", "pgd20-dlr", "apgd-ce", "apgd-t"])
def test_attacks_that_climb_are_finished_inside_the_ball(name: str, sample: Dataset) -> None:
    model, few = Watched(), subset(sample, 20)
    images, attack = to_pixels(few.images), named(name, eps=0.1)
    assert attack.lowers
    moved = attack.finish(objective_of(model, few.labels, loss=attack.loss), images, images)
    assert float((moved - images).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert not torch.equal(moved, images)
    assert model.passes[True] == 0
    assert model.passes[False] <= 20 * (attack.last_steps + 1)


def test_auto_pgd_that_failed_in_bf16_crosses_the_ball_in_fp32() -> None:
    class Certain(nn.Module):
        """Class 0 for every image; its loss rises as the image gets darker."""

        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1).sum(1)
            return torch.stack((5 + score, 0 * score), 1)

    images, attack = torch.full((3, 1, 2, 2), 0.5), named("apgd-ce", eps=0.1)
    moved = images.clone()
    moved[0] += 0.1  # a result in bf16, from which PGD takes its usual small steps
    found = attack.finish(objective_of(Certain(), torch.zeros(3, dtype=torch.long)), images, moved) - images
    assert torch.allclose(found[0], torch.tensor(0.1 - 25 * 0.0025), atol=1e-6)
    assert torch.allclose(found[1:], torch.tensor(-0.1), atol=1e-6)


def test_attacks_without_a_last_quarter_stay_in_fp32(sample: Dataset) -> None:
    """Random search has no steps to make again, and three steps have no quarter."""
    assert {n for n in ATTACKS.names() if ATTACKS.get(n).lowers} == {"apgd-ce", "apgd-t", "fgsm", "mi-fgsm", "pgd"}
    assert not any(named(n, eps=0.1).lowers for n in ("square200", "fgsm", "pgd3", "autoattack"))
    model = Watched()
    evaluate(model, None, [Attack("square", 0.1, 20), named("fgsm", eps=0.1)], subset(sample, 20), options=LOW)
    assert model.passes[True] == 0


def test_auto_is_what_the_chip_multiplies(sample: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    few, options = subset(sample, 10), EvaluationOptions(attack_precision="auto", eps=0.1)
    for native, expected in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(precision, "native_bf16", lambda device, native=native: native)
        rows = evaluate(Watched(), None, "pgd5", few, options=options)
        assert {r.attack_precision for r in rows} == {expected}
    with pytest.raises(ValueError, match=r"no attack precision 'bf17'.*did you mean 'bf16'"):
        EvaluationOptions(attack_precision="bf17")  # type: ignore[arg-type]
