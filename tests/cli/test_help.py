"""Help that helps: version, examples, completion, what was meant, how long it will take."""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
import tomllib
from importlib import resources
from types import SimpleNamespace

import pytest
from rich.console import Console
from test_cli import call

import rheostat
from rheostat.cli.app import app
from rheostat.cli.progress import Pace, Show, duration, plan_line
from rheostat.cli.tune import Searching
from rheostat.training.recipe import load_recipe, names

RECIPES = resources.files("rheostat.training") / "recipes"
COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands]


def test_the_version_is_printed(capsys) -> None:
    assert call(capsys, "--version") == (0, f"rheostat {rheostat.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_has_an_example(capsys, command: str) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    text = " ".join(out.split())
    assert f"Example: rheostat {command}" in text


def test_help_swallows_no_word_in_brackets(capsys) -> None:
    """A console takes [space] for markup; the help of `tune` lacked the name of the table that it asks for."""
    assert "table [space]" in " ".join(call(capsys, "tune", "--help")[1].replace("│", " ").split())
    for command in app.registered_commands:
        for text in re.findall(r'help="([^"]*)"', inspect.getsource(command.callback)):
            assert not re.search(r"(?<!\\)\[[a-z]", text), text


def test_a_printed_recipe_is_a_recipe(capsys, tmp_path) -> None:
    """`rheostat recipes NAME > mine.toml`: nothing is wrapped at the width of a terminal."""
    for name in names():
        code, out, _ = call(capsys, "recipes", name)
        assert code == 0
        assert tomllib.loads(out) == tomllib.loads((RECIPES / f"{name}.toml").read_text()), name
    (tmp_path / "mine.toml").write_text(out)
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe(name)


def test_the_shell_completes_commands() -> None:
    asked = {"_RHEOSTAT_COMPLETE": "complete_bash", "COMP_WORDS": "rheostat pl", "COMP_CWORD": "1"}
    line = [sys.executable, "-c", "import sys; sys.argv = ['rheostat']; from rheostat.cli import main; main()"]
    done = subprocess.run(line, env={**os.environ, **asked}, capture_output=True, text=True)
    assert "playground" in done.stdout, done.stderr
    assert "train" not in done.stdout


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("epochs=5", "unknown key 'epochs'; did you mean 'train.epochs'?"),
        ("steps=5", "did you mean 'attack.steps' or 'select.steps'?"),
        ("train.eps=0.1", "did you mean 'attack.eps'?"),
        ("train.epoch=3", "did you mean 'epochs'?"),
        ("epoch=5", "did you mean 'train.epochs'?"),
        ("calibrate_dail=false", "did you mean 'calibrate_dial'?"),
    ],
)
def test_a_key_without_its_section_is_answered_with_it(capsys, change: str, answer: str) -> None:
    code, _, err = call(capsys, "train", "oat-digits", "--set", change)
    assert code == 2
    assert answer in err
    assert err.count("\n") == 1


def shown(events: list[dict], **options) -> str:
    """What a file that output goes to holds after some events."""
    out = io.StringIO()
    with Show(Console(file=out, width=200), **options) as show:
        for event in events:
            show(event)
    return out.getvalue()


def test_a_measurement_says_what_it_consists_of() -> None:
    plan = {"event": "plan", "points": 11, "attacks": 1, "images": 500}
    assert shown([plan]) == "measuring 11 points × 1 attack × 500 images\n"
    assert plan_line({**plan, "points": 1, "attacks": 4}) == "measuring 1 point × 4 attacks × 500 images"
    assert shown([plan], lines=False) == ""


def test_a_calibration_says_on_how_many_images_it_rests() -> None:
    dial = {"event": "dial", "places": 11, "images": 500, "robust_accuracy": [0.02, 0.4], "interval": [0.357, 0.444]}
    expected = "dial calibrated at 11 places on 500 images: RA 0.020 to 0.400 (95 % interval 0.357 to 0.444)\n"
    assert shown([dial]) == expected
    assert shown([dial], lines=False) == ""


def test_the_first_chunk_says_how_long_all_will_take_and_later_ones_go_on_saying_it(monkeypatch) -> None:
    times = iter([0.0, 0.0, 5.0, 10.0, 26.0, 30.0])
    monkeypatch.setattr("rheostat.cli.progress.time", SimpleNamespace(monotonic=lambda: next(times)))
    events = [{"event": "chunk", "done": n, "total": 100} for n in (0, 5, 10, 26, 30)]
    assert shown(events).splitlines() == ["measuring 5/100, about 2 min to go", "measuring 26/100, about 74 s to go"]


def test_a_search_says_how_many_trials_there_are_and_how_long_they_take_at_most(monkeypatch) -> None:
    times = iter([0.0, 0.0, 60.0, 60.0])
    monkeypatch.setattr("rheostat.cli.progress.time", SimpleNamespace(monotonic=lambda: next(times)))
    out = io.StringIO()
    with Searching(Console(file=out, width=200), lines=False) as show:
        show({"event": "search", "ended": 2, "trials": 12})
        for step in (0, 50):
            show({"event": "step", "step": step, "total": 100})
        show({"event": "epoch", "epoch": 1, "score": 0.5})
        show({"event": "trial", "trial": 2, "state": "complete", "score": 0.5, "note": ""})
    assert out.getvalue().splitlines() == [
        "searching 12 trials, 2 of them finished",
        "trials 2.5/12, about 19 min to go",
        "trial 2  complete  score 0.500",
    ]


def test_timings_and_int8_say_what_they_consist_of() -> None:
    assert plan_line({"points": 2, "batch sizes": 2}) == "measuring 2 points × 2 batch sizes"
    assert plan_line({"attacks": 2, "images": 300}) == "measuring 2 attacks × 300 images"


def test_short_work_says_nothing() -> None:
    pace = Pace("measuring", 0.0, 0)
    assert pace.line(5, 10, 3.0) is None
    assert Pace("measuring", 0.0, 0).line(1, 10, 0.5) is None, "too soon to know"


def test_durations_are_in_a_persons_units() -> None:
    assert [duration(s) for s in (45, 600, 9000)] == ["45 s", "10 min", "2.5 h"]


def test_an_evaluation_reports_its_plan(digits) -> None:
    from rheostat import EvaluationOptions, data

    events: list[dict] = []
    few = data.subset(digits[1], 20)
    model = rheostat.load("oat-digits")
    options = EvaluationOptions(eps=0.1)
    rheostat.evaluate(model, "robustness=0,1", ["fgsm"], few, options=options, report=events.append)
    plan = {"event": "plan", "points": 2, "attacks": 1, "images": 20}
    # Work is timed from an event before the first chunk, so that this chunk already gives an estimate.
    start, first = ({"event": "chunk", "done": done, "total": 1} for done in (0, 1))
    assert [e for e in events if e["event"] in ("plan", "chunk")] == [plan, start, first]


def test_the_playground_prints_where_it_is(capsys, monkeypatch) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("gradio")
    monkeypatch.setattr("rheostat.serve.playground.mount", lambda web, file, **more: web)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: setattr(self, "started", True))
    code, out, err = call(capsys, "playground", "oat-digits", "--port", "7999")
    assert code == 0, err
    assert "http://127.0.0.1:7999/playground" in out
