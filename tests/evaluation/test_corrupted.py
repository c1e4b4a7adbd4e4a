"""Common corruptions as rows: SA by kind and severity, bits, resumption, table, report, card, command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rheostat
from rheostat import data
from rheostat.cli import main
from rheostat.data.corruptions import CORRUPTIONS, corrupt
from rheostat.evaluation import corrupted
from rheostat.evaluation.corrupted import evaluate_corruptions
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models.artifact import About, load_with
from rheostat.reports.card import card
from rheostat.reports.page import page
from rheostat.results.bits import read_bits
from rheostat.results.corrupted import corruption_table
from rheostat.results.intervals import exact
from rheostat.results.rows import read_rows
from rheostat.runtime.interrupts import Interrupted
from rheostat.training import queue
from rheostat.training.queue import Run, matches, recorded
from support import made_row, make

KINDS = ("gaussian-noise", "contrast")
AT = "robustness=0,1"


@pytest.fixture(scope="module")
def model():
    return rheostat.load("oat-digits")


@pytest.fixture(scope="module")
def few(digits) -> data.Dataset:
    return data.subset(digits[1], 120)


def test_every_point_kind_and_severity_has_a_row_with_its_bits(model, few, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    options = EvaluationOptions(out=out)
    rows = evaluate_corruptions(model, AT, few, severities=(1, 5), kinds=KINDS, options=options)
    assert [(r.corruption.name, r.corruption.severity, r.at["robustness"]) for r in rows if r.corruption] == [
        (kind, severity, at) for severity in (1, 5) for kind in KINDS for at in (0.0, 1.0)
    ]
    assert len({r.identity for r in rows}) == len(rows) == 8
    assert read_rows(out) == rows
    assert {(r.tier, r.knowledge, r.attack.name, r.attack_precision) for r in rows} == {
        ("corruptions", "none", "corruption", "fp32")
    }
    # The figures by hand: the model at the point, on the images as `corrupt` makes them.
    row, at = rows[-1], model.at(robustness=1.0)
    worse = corrupt(few.images, "contrast", severity=5)
    with torch.no_grad():
        clean, right = (at(data.to_pixels(i)).argmax(1) == few.labels for i in (few.images, worse))
    kept = read_bits(out).of(row)
    assert torch.equal(kept[0], clean)
    assert torch.equal(kept[1], right)
    assert row.robust_accuracy == float(right.double().mean()) < row.clean_accuracy == float(clean.double().mean())
    assert row.interval.robust == exact(int(right.sum()), 120, level=0.95)


def test_what_is_measured_is_not_measured_again(model, few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the first corruption: its rows are kept, and the same call makes the others alone."""
    options, made = EvaluationOptions(out=tmp_path / "rows.jsonl"), []

    def stopped(images, name, **more):
        made.append(name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return corrupt(images, name, **more)

    monkeypatch.setattr(corrupted, "corrupt", stopped)
    with pytest.raises(Interrupted, match="stopped after 1 of 2 corruptions; their rows are in"):
        evaluate_corruptions(model, AT, few, severities=(3,), kinds=KINDS, options=options)
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2
    rows = evaluate_corruptions(model, AT, few, severities=(3,), kinds=KINDS, options=options)
    assert made == ["gaussian-noise", "contrast", "contrast"]
    whole = evaluate_corruptions(model, AT, few, severities=(3,), kinds=KINDS)
    aside = {"hardware", "seconds"}
    assert [r.model_dump(exclude=aside) for r in rows] == [r.model_dump(exclude=aside) for r in whole]
    del made[:]
    monkeypatch.setattr(corrupted, "corrupt", lambda *a, **m: made.append(a))
    assert evaluate_corruptions(model, AT, few, severities=(3,), kinds=KINDS, options=options) == rows
    assert not made
    other = rheostat.load("oat-digits")
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="measured on another model"):
        evaluate_corruptions(other, AT, few, severities=(3,), kinds=KINDS, options=options)


def test_mistakes_are_named(model, few) -> None:
    with pytest.raises(ValueError, match=r"no corruption 'frog'.*did you mean 'fog'"):
        evaluate_corruptions(model, AT, few, kinds=["frog"])
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, given 6"):
        evaluate_corruptions(model, AT, few, severities=[6])


def test_the_table_has_means_by_severity_and_the_worst_kind() -> None:
    def of(name: str, severity: int, right: int):
        bits = torch.arange(8) < right
        what = {"name": name, "severity": severity}
        return made_row(torch.ones(8, dtype=torch.bool), bits, corruption=what, tier="corruptions", knowledge="none")

    rows = [of("fog", 1, 8), of("snow", 1, 6), of("fog", 5, 4), of("snow", 5, 2), made_row()]
    assert len({r.identity for r in rows}) == 5
    found = corruption_table(rows)
    assert found is not None
    head, (line,) = found
    shown = dict(zip(head, line, strict=True))
    assert (shown["severity 1"], shown["severity 5"], shown["kinds"], shown["n"]) == ("87.5", "37.5", "2", "8")
    assert shown["worst kind"].startswith("snow 25.0 [")
    assert corruption_table([made_row()]) is None


def test_report_and_card_show_them_where_there_are_any(model, few) -> None:
    attacked = evaluate(model, AT, "pgd2", few, options=EvaluationOptions(eps=0.1))
    rows = evaluate_corruptions(model, AT, few, severities=(5,), kinds=KINDS)
    about = load_with("oat-digits")[1]
    for text in (page([*attacked, *rows], title="x"), card(model, about, [*attacked, *rows], name="x", digest="y")):
        assert "Common corruptions" in text
        assert "severity 5" in text
        assert "contrast" in text
    assert "Common corruptions" not in page(attacked, title="x")
    assert "Common corruptions" not in card(model, about, attacked, name="x", digest="y")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrupted, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in KINDS})
    out = str(tmp_path / "rows.jsonl")
    line = ["evaluate", "oat-digits", "--corruptions", "--at", "robustness=1", "--examples", "50", "--out", out]
    main([*line, "--severities", "2"])
    shown = capsys.readouterr().out
    assert "severity 2" in shown
    assert "worst kind" in shown
    rows = read_rows(out)
    assert [(r.corruption.name, r.corruption.severity) for r in rows if r.corruption] == [(k, 2) for k in KINDS]
    # A queue knows such rows as those of its entry.
    assert matches(rows[0], {"corruptions": True, "examples": 50})
    assert not matches(rows[0], {"examples": 50})
    entry = {"at": "robustness=1", "corruptions": True, "severities": "2", "examples": 50}
    run = Run("oat-digits", "oat-digits", (), (entry,), Path(out))
    assert not recorded(run)  # two kinds of all
    monkeypatch.setattr(queue, "CORRUPTIONS", KINDS)
    assert recorded(run)
    for more, message in (
        (["--severities", "2,x"], "--severities must be a list of whole numbers"),
        (["--tier", "quick"], "--corruptions runs no attack"),
        (["--attack-precision", "bf16"], "--corruptions runs no attack"),
        (["--transfer"], "--corruptions runs no attack"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*line, *more])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "oat-digits", "--severities", "1"])
    assert "--severities needs --corruptions" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "oat-digits", "--attack-precision", "bf17"])
    assert "did you mean 'bf16'" in capsys.readouterr().err


def test_rows_have_the_flags_of_training_and_the_costs_of_the_exits_that_images_take() -> None:
    model = make("rdi", "resnet-8").eval()
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    noise = data.Dataset("noise", images, torch.arange(40) % 10, tuple("0123456789"))
    rheostat.fit_policy(model, replace(noise, split="calibrate-fit"))
    target = Target(model, "x", about=About(provenance={"flags": ["robust-overfitting"]}))
    rows = evaluate_corruptions(target, "exit=0,1", noise, severities=(1,), kinds=KINDS)
    assert {tuple(r.flags) for r in rows} == {("robust-overfitting",)}
    attacked, _ = evaluate(target, "exit=1", "pgd2", noise, options=EvaluationOptions(eps=0.1))
    for row in rows[1::2]:
        assert (row.macs, row.exit_shares.clean) == (attacked.macs, attacked.exit_shares.clean)
        assert row.macs_attacked is row.exit_shares.attacked is None
        assert row.macs.mean < row.macs.p99
    assert rows[0].exit_shares is None
