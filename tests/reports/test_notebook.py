"""What a notebook shows of rows and of a run; and what completion offers."""

from __future__ import annotations

import re
from pathlib import Path

import rheostat
from rheostat import data
from rheostat.results.listed import Rows
from support import made_row


def test_rows_are_a_list_and_a_table(tmp_path: Path, digits) -> None:
    options = rheostat.EvaluationOptions(eps=0.1, out=tmp_path / "rows.jsonl")
    few = data.subset(digits[1], 20)
    rows = rheostat.evaluate(rheostat.load("oat-digits"), "robustness=0,1", ["fgsm"], few, options=options)
    again = rheostat.read_rows(tmp_path / "rows.jsonl")
    assert isinstance(rows, list)
    assert list(rows) == list(again)
    page = rows._repr_html_()
    assert page == again._repr_html_()
    assert re.findall(r"<td>(t = \d)</td>", page) == ["t = 0", "t = 1"]
    for row in (r for r in rows if r.attack.name == "worst"):
        assert f"<td>{100 * row.robust_accuracy:.1f} [" in page
    assert "<b>" not in Rows([made_row(run="<b>")])._repr_html_()
    assert "no rows" in Rows()._repr_html_()


def test_a_run_shows_its_last_scores_and_its_model(tmp_path: Path, digits) -> None:
    model = rheostat.load("oat-digits")
    quick = {"epochs": 1, "max_steps": 1, "calibrate_dial": False, "attack": {"steps": 1}}
    few = data.subset(digits[0], 80)
    run = rheostat.fit(
        model, few, few, eps=0.1, batch=32, out=tmp_path / "x", select={"images": 20, "steps": 1}, **quick
    )
    page = run._repr_html_()
    last = run.history[-1]["calibrate"]
    assert len(re.findall(r"<td>robustness = [\d.]+</td><td>", page)) == len(last) == 3
    assert f"<td>{100 * last[0]['clean_accuracy']:.1f}</td>" in page
    assert model._repr_html_() in page


def test_completion_offers_the_public_names_alone() -> None:
    assert set(dir(rheostat)) == {*rheostat.__all__, "data"}
