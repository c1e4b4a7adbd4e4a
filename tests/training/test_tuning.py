"""Searches: spaces are checked when read, weak trials stop early, and a killed search loses nothing."""

import json
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from rheostat.cli import main
from rheostat.data import DataError
from rheostat.runtime.files import Taken, alone
from rheostat.runtime.interrupts import Interrupted
from rheostat.training import tuning
from rheostat.training.recipe import Recipe, load_recipe
from rheostat.training.space import Space, as_toml, read_space
from rheostat.training.step import NonFinite

SPACE = """
[space]
"train.lr" = { low = 0.05, high = 0.4, log = true }
"attack" = { choices = [{ kind = "n-fgsm" }, { kind = "pgd", steps = 2 }] }
"train.epochs" = { low = 2, high = 4 }
"""
TINY = ["train.epochs=2", "select.images=20", "select.steps=1", "select.every=1", "data.train_images=256"]


def space(folder: Path, text: str = SPACE) -> Space:
    file = folder / "space.toml"
    file.write_text(text)
    return read_space(file, load_recipe("oat-digits", changes=TINY))


def test_a_space_changes_a_recipe_by_keys_and_by_tables(tmp_path: Path) -> None:
    changed = space(tmp_path).changed({"train.lr": 0.07, "attack": {"kind": "pgd", "steps": 3}})
    assert (changed.train.lr, changed.attack.kind, changed.attack.steps, changed.attack.eps) == (0.07, "pgd", 3, 0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[space]\n", r"expected one table \[space\]"),
        ("[spaces]\na = 1\n", r"expected one table \[space\]"),
        ("[space\n", "not TOML"),
        ('[space]\n"train.lrr" = { low = 0.1, high = 0.2 }\n', "train.lrr.*unknown key.*lr"),
        ('[space]\n"train.lr" = { low = 0.2, high = 0.1 }\n', "must be below high"),
        ('[space]\n"train.lr" = { low = 0.0, high = 0.1, log = true }\n', "above 0 with log"),
        ('[space]\n"train.lr" = { low = 0.1 }\n', "write { choices"),
        ('[space]\n"train.lr" = { choices = [] }\n', "needs at least one value"),
        ('[space]\n"train.lr" = { choices = [1], low = 0.1 }\n', "excludes low"),
        ('[space]\n"train.lr" = { choices = [0.1, -1] }\n', "train.lr = -1"),
        ('[space]\n"paper" = { choices = ["oat", "flaot"] }\n', "float"),
        ('[space]\n"train.lr" = 3\n', "train.lr"),
    ],
)
def test_what_no_recipe_could_have_is_refused_when_read(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as problem:
        space(tmp_path, text)
    assert "\n" not in str(problem.value)


def test_a_recipe_written_as_toml_is_the_same_recipe(tmp_path: Path) -> None:
    for name in ("oat-digits", "rdi-cifar10", "floats-fashion"):
        recipe = load_recipe(name)
        (tmp_path / "again.toml").write_text(as_toml(recipe))
        assert load_recipe(tmp_path / "again.toml") == recipe


def pretended(curve: Any) -> Any:
    """A `train` that reports the scores `curve(recipe)` and trains nothing."""

    def train(recipe: Recipe, *, out: Path, folder: object, report: Any) -> Any:
        scores = curve(recipe)
        for epoch, score in enumerate(scores, 1):
            report({"event": "epoch", "epoch": epoch, "score": score})
        return types.SimpleNamespace(progress=types.SimpleNamespace(best_score=scores[-1], seconds=1.0))

    return train


def test_the_best_trial_is_found_and_weak_ones_stop_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[space]\n"train.lr" = { low = 0.01, high = 1.0, log = true }\n"train.epochs" = { choices = [16] }\n'
    monkeypatch.setattr(
        tuning, "train", pretended(lambda r: [1 - abs(r.train.lr - 0.1) - 0.01 * (16 - e) for e in range(1, 17)])
    )
    searched = space(tmp_path, text)
    found = tuning.tune(searched, trials=12, out=tmp_path / "search")
    assert found.recipe.train.lr == pytest.approx(0.1, abs=0.1)
    assert len(found.trials) == 12
    states = [t["state"] for t in found.trials]
    assert states.count("pruned") >= 3
    assert max(t["epochs"] for t in found.trials if t["state"] == "pruned") < 16
    assert load_recipe(tmp_path / "search" / "best.toml") == found.recipe
    assert len((tmp_path / "search" / "trials.jsonl").read_text().splitlines()) == 12
    # Asked again for as many trials, it trains none; asked for more, it goes on.
    monkeypatch.setattr(tuning, "train", None)
    assert tuning.tune(searched, trials=12, out=tmp_path / "search").trials == found.trials


def test_a_trial_that_diverges_does_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(recipe: Recipe, **_: Any) -> Any:
        if recipe.train.lr > 0.1:
            raise NonFinite("training diverged at step 3")
        return types.SimpleNamespace(progress=types.SimpleNamespace(best_score=0.5, seconds=1.0))

    monkeypatch.setattr(tuning, "train", train)
    text = '[space]\n"train.lr" = { low = 0.05, high = 0.4, log = true }\n'
    found = tuning.tune(space(tmp_path, text), trials=8, out=tmp_path / "search")
    assert any("diverged" in t["note"] for t in found.trials)
    assert found.recipe.train.lr <= 0.1


def test_values_that_only_training_refuses_end_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(recipe: Recipe, **_: Any) -> Any:
        if recipe.train.batch == 5000:
            raise ValueError("train.batch is 5000, more than the 256 training images")
        if recipe.train.batch == 4096:
            raise torch.OutOfMemoryError("CUDA out of memory.\nAnd more")
        return types.SimpleNamespace(progress=types.SimpleNamespace(best_score=0.5, seconds=1.0))

    monkeypatch.setattr(tuning, "train", train)
    text = '[space]\n"train.batch" = { choices = [64, 4096, 5000] }\n'
    found = tuning.tune(space(tmp_path, text), trials=8, out=tmp_path / "search")
    assert found.recipe.train.batch == 64
    notes = {t["train.batch"]: t["note"] for t in found.trials}
    assert notes[5000].endswith("more than the 256 training images")
    assert notes[4096] == "CUDA out of memory."


def test_a_fault_of_every_trial_ends_the_search_and_the_next_call_draws_other_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def train(recipe: Recipe, **_: Any) -> Any:
        drawn.append(recipe.train.lr)
        raise DataError("no folder of images") if len(drawn) == 1 else Taken("another process is training")

    monkeypatch.setattr(tuning, "train", train)
    for kind in (DataError, Taken):
        with pytest.raises(kind):
            tuning.tune(space(tmp_path), trials=2, out=tmp_path / "search")
    assert len(set(drawn)) == 2


def test_fresh_leaves_the_work_of_other_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    line = ["tune", "oat-digits", "--space", str(tmp_path / "space.toml"), "--out", str(tmp_path / "out"), "--fresh"]
    with pytest.raises(SystemExit):
        main([*line, "--storage", f"sqlite:///{tmp_path / 'shared.db'}"])
    assert "--fresh deletes the search in a folder, but --storage" in capsys.readouterr().err
    trial = tmp_path / "out" / "trial-0"
    trial.mkdir(parents=True)
    with alone(tmp_path / "out"), pytest.raises(ValueError, match="another process is training"):
        tuning.forget(tmp_path / "out")
    assert trial.exists()
    tuning.forget(tmp_path / "out")
    assert not trial.exists()


def test_workers_share_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "train", pretended(lambda r: [r.train.lr]))
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    searched = space(tmp_path)
    first = tuning.tune(searched, trials=3, out=tmp_path / "one", storage=shared)
    both = tuning.tune(searched, trials=6, out=tmp_path / "two", storage=shared)
    assert len(first.trials) == 3
    assert len(both.trials) == 6
    other = read_space(tmp_path / "space.toml", load_recipe("oat-digits", changes=[*TINY, "train.seed=1"]))
    assert len(tuning.tune(other, trials=1, out=tmp_path / "two", storage=shared).trials) == 1


def test_an_interrupt_queues_the_trial_in_progress_again_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, calls = space(tmp_path), []
    changed = Space.changed

    def interrupted(self: Space, values: dict[str, Any]) -> Recipe:
        calls.append(values)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return changed(self, values)

    monkeypatch.setattr(tuning, "train", pretended(lambda r: [r.train.lr]))
    monkeypatch.setattr(Space, "changed", interrupted)
    with pytest.raises(Interrupted):
        tuning.tune(searched, trials=4, out=tmp_path / "a")
    found = tuning.tune(searched, trials=4, out=tmp_path / "a")
    assert sorted(t["trial"] for t in found.trials) == [0, 1, 2, 4]
    third = next(t for t in found.trials if t["trial"] == 2)
    assert third["train.lr"] == calls[2]["train.lr"]


def test_a_resumed_trial_is_judged_at_the_epoch_at_which_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, folder = space(tmp_path), tmp_path / "a"
    monkeypatch.setattr(tuning, "train", pretended(lambda r: [0.5, 0.6]))
    tuning.tune(searched, trials=2, out=folder)
    (folder / "trial-2").mkdir()
    line = {"epoch": 1, "score": 0.1}
    (folder / "trial-2" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.setattr(tuning, "train", pretended(lambda r: pytest.fail("it was trained further")))
    found = tuning.tune(searched, trials=3, out=folder)
    assert next(t for t in found.trials if t["trial"] == 2)["note"] == "stopped after epoch 1"


def test_workers_that_work_at_once_draw_different_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    searched, drawn = space(tmp_path), []

    def train(recipe: Recipe, **_: Any) -> types.SimpleNamespace:
        drawn.append(recipe.train.lr)
        if len(drawn) == 1:  # another worker starts while this one trains its first trial
            tuning.tune(searched, trials=1, out=tmp_path / "two", storage=shared)
        return types.SimpleNamespace(progress=types.SimpleNamespace(best_score=0.5, seconds=1.0))

    monkeypatch.setattr(tuning, "train", train)
    tuning.tune(searched, trials=1, out=tmp_path / "one", storage=shared)
    assert len(drawn) == len(set(drawn)) == 2


def test_mistakes_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    tail = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["--space", str(tmp_path / "none.toml")], "no file"),
        (["--space", str(tmp_path / "space.toml"), "--storage", "mysqlx://u:secret@h/db"], "cannot open the study"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["tune", "oat-digits", *arguments, *tail])
        said = capsys.readouterr().err
        assert stop.value.code == 2
        assert re.search(message, said)
        assert "secret" not in said


@pytest.mark.slow
@pytest.mark.parametrize("signals", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_search_continues_its_trial(signals: signal.Signals, tmp_path: Path) -> None:
    """The scores are those of a search that nothing stopped, and no trial is trained from its beginning twice."""
    (tmp_path / "space.toml").write_text('[space]\n"train.lr" = { low = 0.05, high = 0.4, log = true }\n')
    changes = ["train.epochs=6", "select.images=20", "select.steps=1", "select.every=1", "train.checkpoint_seconds=0"]

    def command(out: str) -> list[str]:
        line = [sys.executable, "-m", "rheostat", "tune", "oat-digits", "--space", str(tmp_path / "space.toml")]
        return [*line, "--trials", "3", "--out", str(tmp_path / out), *(f"--set={c}" for c in changes)]

    subprocess.run(command("whole"), check=True, capture_output=True)
    worker = subprocess.Popen(command("killed"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    second = tmp_path / "killed" / "trial-1" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (second.is_file() and second.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    worker.send_signal(signals)
    worker.communicate()
    assert worker.returncode == (130 if signals == signal.SIGTERM else -signal.SIGKILL)
    first = second.read_text().splitlines()[0]  # with its seconds, which another training would not repeat
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert second.read_text().splitlines()[0] == first

    def scores(out: str) -> list[tuple[float, float]]:
        lines = (tmp_path / out / "trials.jsonl").read_text().splitlines()
        return sorted((json.loads(line)["train.lr"], json.loads(line)["score"]) for line in lines)

    assert scores("killed") == scores("whole")
