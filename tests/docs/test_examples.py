"""Every file of examples/ runs as it stands, and RobustBench's keys hold what the row says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rheostat
from rheostat.attacks import named
from rheostat.data import subset
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.target import Target
from rheostat.points.point import Point
from rheostat.reports.leaderboard import entry

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


SLOW = ("autoattack", "robustbench_style")
"""They run AutoAttack whole."""


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=[pytest.mark.slow] if f.stem in SLOW else []) for f in EXAMPLES],
    ids=[f.stem for f in EXAMPLES],
)
def test_an_example_runs(file: Path, tmp_path: Path) -> None:
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(c.isdigit() for c in done.stdout)


def test_an_entry_has_robustbenchs_keys(digits) -> None:
    target, few = Target(rheostat.load("oat-digits"), "x"), subset(digits[1], 50)
    rows = evaluate(target, [Point(robustness=1.0)], [named("fgsm", eps=8 / 255)], few)
    found = entry(rows[-1])
    assert {
        "name",
        "dataset",
        "eps",
        "clean_acc",
        "reported",
        "autoattack_acc",
        "architecture",
        "additional_data",
        "number_forward_passes",
        "venue",
        "authors",
        "link",
    } <= set(found)
    assert found["eps"] == "8/255"
    assert found["clean_acc"] == f"{100 * rows[-1].clean_accuracy:.2f}"
    # FGSM alone is not AutoAttack, and does not stand under its key.
    assert found["autoattack_acc"] is None
    assert found["rheostat"]["robust_acc"] == f"{100 * rows[-1].robust_accuracy:.2f}"
    attack = rows[-1].attack.model_copy(update={"eps": 0.1, "of": ["autoattack"]})
    assert entry(rows[-1].model_copy(update={"attack": attack}))["eps"] == "0.1"
