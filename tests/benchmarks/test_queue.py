"""The queue of runs: a finished run is not repeated, an edited entry is another run, mistakes are named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rheostat.cli import main
from rheostat.models import artifact
from rheostat.points.grid import parse_grid
from rheostat.results.row import Row
from rheostat.results.rows import read_rows, write_rows
from rheostat.results.timings import holds_timings
from rheostat.training.queue import finished, matches, read_queue, recorded, select
from rheostat.training.queue_runner import commands, states
from rheostat.training.recipe import load_recipe
from support import made_row

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUEUES = sorted((BENCHMARKS / "queues").rglob("*.toml"))
COMMAND = [sys.executable, "-m", "rheostat", "queue"]

TEXT = """
rows = "x.jsonl"
[evaluate]
default = [{ at = "robustness=0,1", attack = ["pgd2", "fgsm"] }]
[[run]]
name = "a"
recipe = "oat-digits"
set = ["train.epochs=1"]
"""


def test_what_a_queue_file_says(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(TEXT)
    (run,) = read_queue(tmp_path / "q.toml")
    assert run.rows == tmp_path / "x.jsonl"
    train, evaluate = commands(run, Path("runs"), 1)
    assert train[3:5] == ["train", "oat-digits"]
    assert train[-2:] == ["--set", "train.epochs=1"]
    assert evaluate[-4:] == ["--attack", "pgd2", "--attack", "fgsm"]
    assert not finished(run, tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "done.json").write_text(json.dumps({"marks": [run.mark]}))
    assert finished(run, tmp_path)
    (tmp_path / "q.toml").write_text(TEXT.replace("epochs=1", "epochs=2"))
    (edited,) = read_queue(tmp_path / "q.toml")
    assert not finished(edited, tmp_path)
    (tmp_path / "own.toml").write_text("a = 1\n")
    (tmp_path / "q.toml").write_text(TEXT.replace("oat-digits", "own.toml"))
    (by_file,) = read_queue(tmp_path / "q.toml")
    before = by_file.mark
    (tmp_path / "own.toml").write_text('about = "the same run"  # again\na = 1\n')
    assert by_file.mark == before
    (tmp_path / "own.toml").write_text("a = 2\n")
    assert by_file.mark != before
    for bad, message in (("nmae = 1\n", "unknown key"), (TEXT[TEXT.index("[[run") :], "two runs named")):
        (tmp_path / "q.toml").write_text(TEXT + bad)
        with pytest.raises(ValueError, match=message):
            read_queue(tmp_path / "q.toml")


def test_rows_that_are_in_are_known(tmp_path: Path) -> None:
    """Every point of every entry: a part of them, another tier or another rule is not all."""
    text = TEXT.replace("x.jsonl", str(tmp_path / "x.jsonl"))
    text = text.replace("attack = [", 'between = "at-0", examples = 9, attack = [')
    (tmp_path / "q.toml").write_text(text)
    (run,) = read_queue(tmp_path / "q.toml")
    attack = {"name": "worst", "of": ["pgd2", "fgsm"], "norm": "linf", "eps": 0.1}
    fields = {"run": "a", "tier": "quick", "rule": "at-0", "n": 9, "attack": attack}
    whole = [made_row(**fields, at={"robustness": v}) for v in (0.0, 1.0)]

    def known(rows: list[Row]) -> bool:
        write_rows(run.rows, rows)
        return bool(recorded(run))

    assert not recorded(run)
    assert known(whole)
    assert not known(whole[:1])
    others = {
        "run": "b",
        "split": "calibrate-choose",
        "tier": "full",
        "rule": None,
        "n": 8,
        "attack": {**attack, "of": ["pgd2"]},
        "precision": "int8",
    }
    for key, other in others.items():
        assert not known([whole[0], made_row(**{**fields, "at": {"robustness": 1.0}, key: other})])


def test_a_row_with_settings_that_no_entry_asked_for_is_none_of_its_rows() -> None:
    attack = {"name": "worst", "of": ["pgd20"], "norm": "linf", "eps": 0.1}
    stated = made_row(attack={**attack, "budgets": [{"name": "pgd20", "step_size": 0.001}]})
    assert matches(made_row(attack=attack), {})
    assert not matches(stated, {})
    assert matches(stated, {"step-size": 0.001})


def test_the_benchmarks_queues_name_real_recipes_and_the_folder_of_results() -> None:
    assert QUEUES
    for file in QUEUES:
        for run in read_queue(file):
            assert load_recipe(run.source, changes=list(run.changes))
            assert run.rows.parent == BENCHMARKS / "results"


def test_the_queue_in_the_docs_is_one(tmp_path: Path) -> None:
    page = (BENCHMARKS.parent / "docs" / "training.md").read_text()
    (tmp_path / "q.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    runs = read_queue(tmp_path / "q.toml")
    assert [load_recipe(r.source, changes=list(r.changes)).net["base_width"] for r in runs] == [8, 16]


def test_a_files_precision_is_that_of_its_runs_and_fp32_is_what_runs_had_before(tmp_path: Path) -> None:
    """Rows and folders of runs made before files said so stay those of the same runs."""
    (tmp_path / "q.toml").write_text(TEXT)
    (before,) = read_queue(tmp_path / "q.toml")
    made = {}
    for name in ("fp32", "bf16"):
        (tmp_path / "q.toml").write_text(f'precision = "{name}"\n{TEXT}')
        (made[name],) = read_queue(tmp_path / "q.toml")
    assert made["fp32"].mark == before.mark != made["bf16"].mark
    # An entry that sets its own comes after, and counts.
    line = commands(made["bf16"], Path("runs"), 1)[0]
    assert line[-4:] == ["--set", "device.precision=bf16", "--set", "train.epochs=1"]
    (tmp_path / "q.toml").write_text(f'precision = "fp16"\n{TEXT}')
    with pytest.raises(ValueError, match="precision: Input should be 'auto', 'fp32' or 'bf16'"):
        read_queue(tmp_path / "q.toml")


def test_a_measurement_of_a_file_is_found_in_its_precision_alone() -> None:
    attack = {"name": "worst", "of": ["pgd20 of fp32", "square200"], "norm": "linf", "eps": 0.1}
    entry = {"at": "robustness=1", "precision": "int8"}
    found = {p: made_row(at={"robustness": 1.0}, attack=attack, precision=p) for p in ("fp32", "int8", "int8-openvino")}
    assert [p for p, row in found.items() if matches(row, entry)] == ["int8"]
    assert [p for p, row in found.items() if matches(row, {"at": "robustness=1"})] == ["fp32"]


def test_queues_with_rows_pin_the_precision_of_their_training() -> None:
    for file in QUEUES:
        for run in read_queue(file):
            own = load_recipe(run.source, changes=list(run.changes)).device.precision
            assert "fp32" in (run.precision, own) or own == "bf16", f"{file.name}: {run.name}"


def test_paths_are_relative_to_the_queue_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queues" / "more").mkdir(parents=True)
    text = TEXT.replace('"x.jsonl"', '"../../rows/x.jsonl"').replace('"oat-digits"', '"own.toml"')
    (tmp_path / "queues" / "more" / "q.toml").write_text(text)
    (tmp_path / "queues" / "all.toml").write_text('include = ["more/q.toml"]\n')
    monkeypatch.chdir(tmp_path)
    (run,) = read_queue("queues/all.toml")
    assert run.rows == tmp_path / "rows" / "x.jsonl"
    train, evaluate = commands(run, Path("runs"), 1)
    assert train[3:7] == ["train", "queues/more/own.toml", "--out", "runs/a"]
    assert evaluate[4:7] == ["runs/a", "--out", str(run.rows)]
    # The same entry is the same run wherever it is read from.
    monkeypatch.chdir(tmp_path / "queues")
    assert read_queue("all.toml")[0].mark == run.mark


def test_measurements_are_options_of_evaluate(tmp_path: Path) -> None:
    text = TEXT.replace('attack = ["pgd2", "fgsm"]', "examples = 9, transfer = true, probe = false")
    (tmp_path / "q.toml").write_text(text)
    evaluate = commands(*read_queue(tmp_path / "q.toml"), Path("runs"), 1, verify=False)[1]
    assert evaluate[-7:] == ["--no-verify", "--at", "robustness=0,1", "--examples", "9", "--transfer", "--no-probe"]


def test_one_run_or_all_whose_names_contain_a_word(tmp_path: Path) -> None:
    text = TEXT + "".join(f'[[run]]\nname = "{n}"\nrecipe = "oat-digits"\n' for n in ("oat", "oat-2"))
    (tmp_path / "q.toml").write_text(text)
    runs = read_queue(tmp_path / "q.toml")
    for word, names in (("", ["a", "oat", "oat-2"]), ("oat", ["oat"]), ("oat-", ["oat-2"]), ("a", ["a"])):
        assert [r.name for r in select(runs, word)] == names
    assert [s for s, _ in states(runs, tmp_path)] == ["open"] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows = ", "not TOML"),
        ("row = 'x.jsonl'", "unknown key 'row'; did you mean 'rows'?"),
        (TEXT.replace("[[run]]", "[[run]]\nrecpie = 1"), "unknown key 'run.0.recpie'; did you mean 'recipe'?"),
        (TEXT.replace('recipe = "oat-digits"', ""), "missing key 'run.0.recipe'"),
        (TEXT.replace('rows = "x.jsonl"', ""), "missing key 'rows'"),
        (TEXT.replace('rows = "x.jsonl"', "rows = 3"), "rows: Input should be a valid string (given 3)"),
        (TEXT + 'evaluate = "defualt"\n', "no list under [evaluate] named 'defualt'; did you mean 'default'?"),
        ('include = ["q.toml"]', "a queue file cannot include itself"),
        ('include = ["absent.toml"]', "no file"),
        (TEXT + "\n", "no run's name contains 'b'; allowed: a"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(text: str, message: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "q.toml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["queue", str(tmp_path / "q.toml"), "--only", "b"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


INCLUDING = """
include = ["q.toml"]
rows = "y.jsonl"
set = ["data.verify=false"]
[evaluate]
default = [{ tier = "quick" }]
[[run]]
name = "b"
recipe = "oat-digits"
set = ["train.epochs=2"]
"""


def test_a_file_that_includes_another(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(TEXT)
    (tmp_path / "all.toml").write_text(INCLUDING)
    first, second = read_queue(tmp_path / "all.toml")
    assert (first.name, first.rows.name) == ("a", "x.jsonl")
    assert (second.name, second.rows.name) == ("b", "y.jsonl")
    assert second.changes == ("data.verify=false", "train.epochs=2")
    # The same run measured by two files is trained once; another run of the same name is a mistake.
    same = INCLUDING.replace('name = "b"', 'name = "a"').replace("epochs=2", "epochs=1")
    (tmp_path / "all.toml").write_text(same.replace('set = ["data.verify=false"]\n', ""))
    first, again = read_queue(tmp_path / "all.toml")
    assert (first.recipe, first.changes) == (again.recipe, again.changes)
    assert first.mark != again.mark
    (tmp_path / "all.toml").write_text(same)
    with pytest.raises(ValueError, match="another run in an included file"):
        read_queue(tmp_path / "all.toml")


@pytest.mark.slow
def test_a_stretch_ends_and_continues(tmp_path: Path) -> None:
    """Interrupted in training and in evaluation, the queue goes on to the rows of one that was not."""
    text = TEXT.replace("x.jsonl", str(tmp_path / "x.jsonl")).replace("epochs=1", 'epochs=3", "calibrate_dial=false')
    (tmp_path / "q.toml").write_text(text)
    line = [*COMMAND, str(tmp_path / "q.toml"), "--runs", str(tmp_path)]
    line += ["--threads", "1"]
    first = subprocess.run([*line, "--stretch", "0.05"], capture_output=True, text=True, check=True)
    assert "the same command continues" in first.stdout
    second = subprocess.run([*line, "--stretch", "9"], capture_output=True, text=True, check=True)
    assert "the same command continues" not in second.stdout
    listed = subprocess.run([*line, "--list"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["done", "a"]
    # Elsewhere, where the rows came along and the run's folder did not.
    line[line.index("--runs") + 1] = str(tmp_path / "elsewhere")
    listed = subprocess.run([*line, "--list"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["rows", "a"]
    rows = [json.loads(r) for r in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert sorted(r["at"]["robustness"] for r in rows if r["attack"]["name"] == "worst") == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_queue_stops_its_command(stop: signal.Signals, tmp_path: Path) -> None:
    """The signal reaches the queue alone; no command may run on without it and hold the run's folder."""
    if signal.getsignal(stop) is signal.SIG_IGN and stop == signal.SIGHUP:
        pytest.skip("these tests run under nohup, and the queue then ignores SIGHUP on purpose")
    text = TEXT.replace("x.jsonl", str(tmp_path / "x.jsonl"))
    (tmp_path / "q.toml").write_text(text.replace("epochs=1", 'epochs=500", "train.checkpoint_seconds=0'))
    line = [*COMMAND, str(tmp_path / "q.toml"), "--runs", str(tmp_path), "--threads", "1"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "a" / "checkpoint.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.send_signal(stop)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "rheostat: the queue stopped; the same command continues it" in said
    assert not Path(f"/proc/{child}").exists()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    text = TEXT.replace("x.jsonl", str(tmp_path / "x.jsonl")).replace('"a"', '"impossible"')
    text = text.replace('set = ["train.epochs=1"]', 'set = ["train.batch=100000"]')
    text += '[[run]]\nname = "b"\nrecipe = "oat-digits"\n'
    text += 'set = ["train.max_steps=2", "calibrate_dial=false", "select.images=20"]\n'
    (tmp_path / "q.toml").write_text(text)
    line = [*COMMAND, str(tmp_path / "q.toml"), "--runs", str(tmp_path), "--threads", "1"]
    found = subprocess.run(line, capture_output=True, text=True)
    assert found.returncode == 1
    assert "failed: impossible" in found.stderr
    assert (tmp_path / "b" / "done.json").is_file()
    assert not (tmp_path / "impossible" / "done.json").exists()


def test_every_row_can_be_made_again() -> None:
    """Each row of an evaluation is asked for by an entry of a queue: no measurement by hand."""
    entries: dict[tuple[str, str], list[dict[str, object]]] = {}
    for file in QUEUES:
        for run in read_queue(file):
            entries.setdefault((run.rows.name, run.name), []).extend(run.evaluate)
    missed = set()
    scripts = {"square.jsonl", "naive-segment.jsonl"}  # a script of benchmarks/measure makes each, which it names
    shipped = {artifact.digest(file) for file in artifact.packaged().values()}  # `rheostat evaluate NAME` measures them
    for file in (BENCHMARKS / "results").glob("*.jsonl"):
        for row in [] if holds_timings(file) or file.name in scripts else read_rows(file):
            if file.name == "zoo.jsonl" and row.artifact in shipped:
                continue
            asked = [e for e in entries.get((file.name, row.run), []) if matches(row, e)]
            if row.knowledge == "chosen" and any(e.get("transfer") for e in asked):
                continue  # over all points of the entry, so it is at none of them
            grids = [p.numbers() for e in asked for p in parse_grid(e.get("at", ""))]
            if not any(grid.items() <= row.at.items() for grid in grids):
                missed.add((file.name, row.run, row.tier, row.rule, row.n))
    assert not missed
