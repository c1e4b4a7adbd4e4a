"""After the last step: nothing trained is lost, nothing finished is touched, flags are those of the whole run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from rheostat.calibration.dial import Knot
from rheostat.cli.app import main
from rheostat.models.artifact import load_with, name_point
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.reports.card import card
from rheostat.results.flags import NAMES
from rheostat.results.intervals import exact
from rheostat.runtime.interrupts import Interrupted
from rheostat.training import finishing, loop
from rheostat.training.loop import train
from rheostat.training.recipe import Recipe, load_recipe
from rheostat.training.selection import Watch

SMALL = ["select.images=20", "select.steps=1", "attack.steps=1", "train.max_steps=2", "data.train_images=300"]


def recipe(*changes: str) -> Recipe:
    return load_recipe("oat-digits", changes=[*SMALL, *changes])


@pytest.mark.parametrize(
    ("function", "changes"), [("calibrate_dial", ("calibrate_dial=true",)), ("fit_policy", ("paper=rdi", "method={}"))]
)
def test_a_calibration_that_cannot_be_done_is_a_flag_and_the_model_stays(
    function: str, changes: tuple[str, ...], tmp_path: Path, monkeypatch, capsys
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise ValueError("it cannot be done")

    monkeypatch.setattr(finishing, function, fails)
    events: list[dict] = []
    chosen = recipe("calibrate_dial=false", *changes)
    done = train(chosen, out=tmp_path, report=events.append)
    assert "calibration-failed" in done.progress.flags
    assert "calibration-failed" in NAMES
    model, about = load_with(tmp_path)
    assert "calibration-failed" in about.provenance["flags"]
    assert "it cannot be done" in about.provenance["calibration"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), done.model.parameters(), strict=True))
    assert "`calibration-failed`" in card(model, about, [], name="a run", digest="0")
    main(["info", str(tmp_path)])
    assert "calibration-failed" in capsys.readouterr().out
    (line,) = [e for e in events if e["event"] == "calibration-failed"]
    assert "it cannot be done" in line["why"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="it cannot be done"):
        train(chosen, out=tmp_path)


@pytest.mark.parametrize(
    ("problem", "raised"), [(RuntimeError("dead"), RuntimeError), (KeyboardInterrupt(), Interrupted)]
)
def test_whatever_stops_a_calibration_the_model_is_there_and_the_same_call_calibrates(
    problem: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch
) -> None:
    def dies(*arguments: object, **options: object) -> None:
        raise problem

    chosen = recipe("paper=rdi", "method={}", "calibrate_dial=false")
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "fit_policy", dies)
        with pytest.raises(raised):
            train(chosen, out=tmp_path)
    assert load_with(tmp_path)[1].provenance["calibration"] == "pending"
    train(chosen, out=tmp_path)
    model, about = load_with(tmp_path)
    assert about.provenance["calibration"] == "done"
    assert bool(model.net.get_buffer("thresholds").isfinite().all())


def test_the_images_and_the_interval_of_a_calibration_are_reported(tmp_path: Path, monkeypatch) -> None:
    asked: dict[str, object] = {}

    def made(model: Tunable, fit: object, attack: object, **options: object) -> list[Knot]:
        asked.update(options)
        return [Knot(0.0, 0.1, 50), Knot(0.5, 0.5, 50), Knot(1.0, 0.4, 50)]

    monkeypatch.setattr(finishing, "calibrate_dial", made)
    events: list[dict] = []
    train(recipe("calibrate_dial=true", "device.precision=bf16"), out=tmp_path, report=events.append)
    (line,) = [e for e in events if e["event"] == "dial"]
    assert line["robust_accuracy"] == [0.1, 0.5]
    assert (line["places"], line["images"]) == (3, 50)
    assert line["interval"] == list(exact(25, 50))
    assert asked == {"precision": "bf16"}


def test_sigterm_in_a_calibration_says_what_is_kept(tmp_path: Path, monkeypatch) -> None:
    def terminated(*arguments: object, **options: object) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # else the signal would end the tests too
        os.kill(os.getpid(), signal.SIGTERM)

    chosen = recipe("paper=rdi", "method={}", "calibrate_dial=false")
    monkeypatch.setattr(finishing, "fit_policy", terminated)
    with pytest.raises(Interrupted, match="keeps the trained model, and the same command continues"):
        train(chosen, out=tmp_path)
    assert load_with(tmp_path)[1].provenance["calibration"] == "pending"


def test_a_finished_run_is_not_touched(tmp_path: Path) -> None:
    chosen = recipe("calibrate_dial=false")
    first = train(chosen, out=tmp_path)
    path = tmp_path / "model.safetensors"
    name_point(path, "safe", Point(robustness=1.0), {"temperature": 2.0})
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir() if p.is_file()}
    events: list[dict] = []
    again = train(chosen, out=tmp_path, report=events.append)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir() if p.is_file()} == before
    assert [e["event"] for e in events] == ["finished"]
    assert list(again.model.points) == ["safe"]
    assert again.model.temperatures == {"safe": 2.0}
    assert again.progress.step == first.progress.step
    x = torch.rand(2, *first.model.net.image)
    with torch.no_grad():
        assert torch.equal(first.model(x), again.model(x))


def test_the_model_of_an_earlier_recipe_is_not_taken_for_the_finished_one(tmp_path: Path, monkeypatch) -> None:
    def dies(*arguments: object, **options: object) -> None:
        raise RuntimeError("dead before the model is written")

    train(recipe("calibrate_dial=false"), out=tmp_path)
    other = recipe("calibrate_dial=false", "train.max_steps=3")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish", dies)
        with pytest.raises(RuntimeError, match="dead before"):
            train(other, out=tmp_path, fresh=True)
    train(other, out=tmp_path)
    assert load_with(tmp_path)[1].provenance["recipe"]["train"]["max_steps"] == 3


def test_a_flag_of_an_early_epoch_is_kept(tmp_path: Path, monkeypatch) -> None:
    raised = iter([["robust-overfitting"], [], ["fast-attack-collapse"], []])
    monkeypatch.setattr(Watch, "flags", lambda self, before, line: next(raised))
    chosen = recipe("calibrate_dial=false", "train.epochs=4", "train.max_steps=8", "train.batch=128")
    done = train(chosen, out=tmp_path)
    both = ["fast-attack-collapse", "robust-overfitting"]
    assert done.progress.flags == both
    assert load_with(tmp_path)[1].provenance["flags"] == both
    lines = [json.loads(line)["flags"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [["robust-overfitting"], ["robust-overfitting"], both, both]


def test_bf16_trains_and_fp32_selects(tmp_path: Path, monkeypatch) -> None:
    seen: dict[str, set[bool]] = {}
    original = Tunable.read

    def noted(self: Tunable, x, at):
        seen.setdefault(str(getattr(at.phase, "value", at.phase)), set()).add(torch.is_autocast_enabled("cpu"))
        return original(self, x, at)

    monkeypatch.setattr(Tunable, "read", noted)
    train(recipe("calibrate_dial=false", "device.precision=bf16"), out=tmp_path)
    assert seen == {"train": {True}, "attack": {True}, "eval": {False}}
