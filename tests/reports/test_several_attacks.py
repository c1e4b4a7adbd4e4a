"""A report of evaluations under different attacks or settings keeps them apart."""

from __future__ import annotations

import pytest
import torch

import rheostat
from rheostat.reports import evaluation_plots as plots
from rheostat.reports.page import write_report
from rheostat.results.row import Row
from support import made_row

SMALL = {"name": "pgd20", "step_size": 0.001}


def row(at: float, robust: int, attack: dict, **more) -> Row:
    bits = [torch.arange(100) < count for count in (95, robust)]
    return made_row(*bits, at={"robustness": at}, attack={"norm": "linf", "eps": 0.1, **attack}, **more)


def crossed(made: float, at: float, robust: int, **more) -> Row:
    entry = {"name": "transfer", **({} if made == at else {"made_at": {"robustness": made}}), **more}
    return row(at, robust, entry, knowledge="transfer")


def test_a_map_of_transfer_has_the_cells_of_one_evaluation() -> None:
    """Cells of FGSM replaced those of PGD-20 where both existed, and stood beside them elsewhere."""
    pgd = [crossed(made, at, 40) for made in (0.0, 0.5) for at in (0.0, 0.5)]
    fgsm = [crossed(0.0, at, 70, attacks=["fgsm"]) for at in (0.0, 0.5)]
    figure = plots.transfer_map([*pgd, *fgsm])
    assert figure is not None
    assert {text.get_text() for text in figure.axes[0].texts} == {"40"}


def test_attack_by_attack_each_worst_case_has_the_steps_of_its_own_evaluation() -> None:
    """Both lines showed the values of the last evaluation."""

    def evaluation(first: int, second: int, *own: dict) -> list[Row]:
        size = own[0]["step_size"] if own else 0.0125
        budgets = {"budgets": list(own)} if own else {}
        return [
            row(1.0, first, {"name": "pgd20", "step_size": size}),
            row(1.0, second, {"name": "square", **budgets}, cumulative=True),
            row(1.0, second, {"name": "worst", "of": ["pgd20", "square"], **budgets}),
        ]

    usual, small = evaluation(50, 45), evaluation(80, 60, SMALL)
    for rows in ([*usual, *small], [*small, *usual]):
        figure = plots.ladder(rows)
        assert figure is not None
        assert sorted(list(line.get_ydata()) for line in figure.axes[0].lines) == [[50, 45], [80, 60]]


def test_rows_of_corruptions_alone_make_a_report_and_no_empty_plot(tmp_path) -> None:
    corrupted = made_row(
        attack={"name": "corruption", "norm": "linf", "eps": 0.0},
        knowledge="none",
        corruption={"name": "fog", "severity": 3},
        at={"robustness": 1.0},
    )
    written = write_report([corrupted], tmp_path, title="A report")
    assert [path.name for path in written] == ["report.html", "robustbench.json"]
    text = written[0].read_text()
    assert "Common corruptions" in text
    assert "No row is under attack" in text
    with pytest.raises(ValueError, match="no row is under attack"):
        rheostat.plot([corrupted])
