"""Attackers who do not know the point: which images they use, and which attack maximises the mean loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rheostat
from rheostat.attacks import Attack, named
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.chunks import Task, measured
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.points.grid import parse_grid
from rheostat.results.row import Check
from rheostat.results.rows import add_rows, read_rows, write_rows
from rheostat.runtime.seeding import stream

EPS = 0.2
POINTS = parse_grid("robustness=0,1")


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 60)


class Failing(Attack):
    """It returns the clean image where it fails, as pyautoattack's attacks do; here it always fails."""

    def __call__(self, objective, images, generator=None, *, share=None):
        return images


def test_an_attack_that_fails_leaves_the_images_of_earlier_ones(model, sample) -> None:
    images, labels = to_pixels(sample.images), sample.labels
    strong, failing = named("pgd10", eps=EPS), Failing("pgd", EPS, label="failing")
    ladders = [(strong,), (strong, failing), (failing, strong)]
    alone, after, before = (
        measured(Task(model, tuple(POINTS), ladder, transfer=True), images, labels, 0) for ladder in ladders
    )
    survivors = alone["standing"][1, -1] & alone["clean"][0]
    assert bool((survivors & ~alone["crossed"][1, 0]).any())  # some images matter only where they were not made
    assert torch.equal(after["crossed"], alone["crossed"])
    assert torch.equal(before["crossed"], alone["crossed"])


def test_transfer_uses_the_first_attack_that_treats_rows_independently(model, sample, tmp_path: Path) -> None:
    few, options = sample.only(torch.arange(10)), EvaluationOptions(transfer=True)
    rows = evaluate(model, POINTS, [named("square20", eps=EPS), named("fgsm", eps=EPS)], few, options=options)
    assert {r.knowledge for r in rows} == {"known", "transfer", "unknown", "chosen"}
    out = tmp_path / "rows.jsonl"
    evaluate(model, POINTS, [named("square20", eps=EPS)], few, options=EvaluationOptions(out=out))
    kept = read_rows(out)
    with pytest.raises(ValueError, match="given square20; add --attack pgd20 or omit --transfer"):
        evaluate(
            model,
            POINTS,
            [named("square20", eps=EPS)],
            few,
            options=EvaluationOptions(out=out, transfer=True, fresh=True),
        )
    assert read_rows(out) == kept


def test_images_made_at_another_point_use_every_step(model, sample) -> None:
    """An image that stops at its first success is at the boundary of its own point and fools no other one."""
    images, labels = to_pixels(sample.images), sample.labels
    attack = named("pgd10", eps=EPS)
    crossed = measured(Task(model, tuple(POINTS), (attack,), transfer=True), images, labels, 0)["crossed"]
    for made, scored in ((0, 1), (1, 0)):
        moved = replace(attack, drop=False)(model.objective(labels, POINTS[made]), images, stream("another seed"))
        alone = (model(moved, POINTS[scored]).argmax(1) == labels) & (model(images, POINTS[scored]).argmax(1) == labels)
        assert float(crossed[made, scored].float().mean()) <= float(alone.float().mean()) + 0.04


def test_an_unknown_attacker_has_one_row_whichever_single_point_is_best(model, sample, tmp_path: Path) -> None:
    few, options = sample.only(torch.arange(20)), EvaluationOptions(transfer=True, out=tmp_path / "rows.jsonl")
    attack = named("fgsm", eps=EPS)
    evaluate(model, POINTS, attack, few, options=options)
    rows = read_rows(options.out)
    other = [
        r.model_copy(update={"attack": r.attack.model_copy(update={"made_at": {"robustness": 0.5}})})
        for r in rows
        if r.knowledge == "unknown"
    ]
    add_rows(options.out, other)
    assert len(read_rows(options.out)) == len(rows) + 2
    evaluate(model, POINTS, attack, few, options=options)
    assert {r.identity for r in read_rows(options.out)} == {r.identity for r in rows}


def test_what_is_finished_is_not_measured_again(sample, tmp_path: Path) -> None:
    model, few, attack = rheostat.load("oat-digits"), sample.only(torch.arange(10)), named("pgd2", eps=EPS)
    options = EvaluationOptions(transfer=True, out=tmp_path / "rows.jsonl")
    passes: list[int] = []
    model.net.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))

    def again(points=POINTS, **changes):
        passes.clear()
        return evaluate(model, points, attack, few, options=replace(options, **changes))

    rows = again()
    assert passes
    assert again() == rows
    assert not passes
    # Another set of points writes the same `unknown` row of a point that both have; which one it is, is not recorded.
    again(parse_grid("robustness=0,0.5"))
    assert passes
    assert [r.identity for r in again()] == [r.identity for r in rows]
    assert passes


def test_checks_that_need_attacks_are_made_of_what_is_finished(sample, tmp_path: Path) -> None:
    model, few = rheostat.load("oat-digits"), sample.only(torch.arange(20))
    options = EvaluationOptions(out=tmp_path / "rows.jsonl")

    def worst(**changes):
        rows = evaluate(model, POINTS, named("pgd2", eps=EPS), few, options=replace(options, **changes))
        return [r for r in rows if r.attack.name == "worst"][1]

    row = worst(transfer=True)
    assert row.eps_curve is None
    # As if images of the other point had fooled more; on so few images they do not.
    check = Check(flag="transfer-beats-known", figures={"gain": 0.1}, made_at=POINTS[0].numbers())
    add_rows(options.out, [row.model_copy(update={"checks": [check], "flags": [check.flag]})])
    probed = worst(probing=True)
    assert probed.eps_curve is not None
    assert check.flag in probed.flags
    assert check in probed.checks
    assert worst(probing=True) == probed in read_rows(options.out)
    # Measured once more, a point that was probed is probed again; --fresh forgets that it was.
    old = Check(flag="steps-gain", figures={"gain": 0.1})
    add_rows(options.out, [probed.model_copy(update={"checks": [*probed.checks, old], "flags": [old.flag]})])
    write_rows(options.out, [r for r in read_rows(options.out) if r.attack.name != "pgd2"])
    again = worst()
    assert (again.eps_curve, again.loss_curve) == (probed.eps_curve, probed.loss_curve)
    assert (again.checks, again.flags) == (probed.checks, probed.flags)
    assert worst(fresh=True).eps_curve is None
    with pytest.raises(ValueError, match="--probe varies PGD on the logits, given apgd-ce; add --attack pgd20 or omit"):
        evaluate(model, POINTS, named("apgd-ce", eps=EPS), few, options=replace(options, probing=True))
