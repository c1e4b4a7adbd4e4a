"""The queue of runs: a finished run is not repeated, an edited entry is another run, mistakes are named."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "run_queue.py"
spec = importlib.util.spec_from_file_location("run_queue", FILE)
assert spec is not None
assert spec.loader is not None
queue = importlib.util.module_from_spec(spec)
sys.modules["run_queue"] = queue
spec.loader.exec_module(queue)

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
    (run,), rows = queue.read_queue(tmp_path / "q.toml")
    assert rows.name == "x.jsonl"
    train, evaluate = queue.commands(run, Path("runs"), rows, 1)
    assert train[3:5] == ["train", "oat-digits"]
    assert train[-2:] == ["--set", "train.epochs=1"]
    assert evaluate[-4:] == ["--attack", "pgd2", "--attack", "fgsm"]
    assert not queue.finished(run, tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "done.json").write_text(json.dumps({"mark": run.mark}))
    assert queue.finished(run, tmp_path)
    (tmp_path / "q.toml").write_text(TEXT.replace("epochs=1", "epochs=2"))
    (edited,), _ = queue.read_queue(tmp_path / "q.toml")
    assert not queue.finished(edited, tmp_path)
    for bad, message in (
        ("nmae = 1\n", "unknown key"),
        (TEXT[TEXT.index("[[run") :], "two runs named"),
    ):
        (tmp_path / "q.toml").write_text(TEXT + bad)
        with pytest.raises(ValueError, match=message):
            queue.read_queue(tmp_path / "q.toml")


def test_the_packaged_queues_name_real_recipes() -> None:
    from rheostat.recipe import load_recipe

    for file in FILE.parent.glob("*.toml"):
        runs, _ = queue.read_queue(file)
        for run in runs:
            assert load_recipe(run.recipe, changes=list(run.changes))
