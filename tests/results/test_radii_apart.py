"""Rows of several radii in one file: no line, ladder, map or choice takes one for another."""

from __future__ import annotations

import pytest
import torch

from rheostat.deploy.choosing import SPLIT, candidates
from rheostat.reports.evaluation_plots import ladder, transfer_map
from rheostat.results.labels import attacker_lines, gap_lines
from rheostat.results.row import Row
from support import made_row


def bits(right: int) -> torch.Tensor:
    return torch.arange(10) < right


def evaluated(eps: float, left: tuple[int, int], names: tuple[str, str] = ("pgd20", "square"), **more) -> list[Row]:
    """The rows of one evaluation: two attacks, the second on what the first left, and the worst case."""
    attack = {"norm": "linf", "eps": eps}
    fields = {"at": {"robustness": 1.0}, "tier": "standard", **more}
    first, second = (
        made_row(bits(10), bits(n), attack={"name": name, **attack}, cumulative=number > 0, **fields)
        for number, (name, n) in enumerate(zip(names, left, strict=True))
    )
    return [first, second, made_row(bits(10), bits(left[1]), attack={"name": "worst", "of": names, **attack}, **fields)]


def test_a_gap_is_of_one_radius() -> None:
    rows = [*evaluated(0.1, (8, 6)), *evaluated(0.2, (4, 3))]
    assert gap_lines(rows) == [
        "t = 1: quick 80.0 → standard 60.0 (gap 20.0 points)",
        "t = 1: quick 40.0 → standard 30.0 (gap 10.0 points)",
    ]


def test_a_gap_is_to_a_worst_case_that_holds_the_attack() -> None:
    other = evaluated(0.1, (5, 2), ("fgsm", "apgd-ce"))
    assert gap_lines([other[-1], *evaluated(0.1, (8, 6))]) == ["t = 1: quick 80.0 → standard 60.0 (gap 20.0 points)"]


def test_a_gap_is_of_one_step_size() -> None:
    usual, weak = evaluated(0.1, (8, 6)), evaluated(0.1, (9, 7))
    for i, update in ((0, {"step_size": 1e-5}), (2, {"budgets": [{"name": "pgd20", "step_size": 1e-5}]})):
        weak[i] = weak[i].model_copy(update={"attack": weak[i].attack.model_copy(update=update)})
    expected = [
        "t = 1: quick 80.0 → standard 60.0 (gap 20.0 points)",
        "t = 1: quick 90.0 → standard 70.0 (gap 20.0 points)",
    ]
    assert gap_lines([*usual, *weak]) == expected
    assert gap_lines([*weak, *usual]) == expected[::-1]


def test_a_ladder_is_of_one_radius_and_of_its_own_order() -> None:
    rows = [*evaluated(0.1, (8, 6)), *evaluated(0.2, (4, 3)), *evaluated(0.1, (7, 5), ("square", "pgd20"))]
    figure = ladder(rows)
    assert figure is not None
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    assert [[round(float(v)) for v in line] for line in drawn] == [[80, 60], [40, 30], [70, 50]]


def crossed(eps: float, right: int) -> list[Row]:
    attack = {"norm": "linf", "eps": eps}
    at, made = {"robustness": 1.0}, {"robustness": 0.0}
    return [
        made_row(
            bits(10), bits(right), at=at, knowledge="transfer", attack={"name": "transfer", "made_at": made} | attack
        ),
        made_row(bits(10), bits(9), at=at, knowledge="unknown", attack={"name": "unknown", **attack}),
    ]


def test_a_transfer_is_of_one_radius() -> None:
    rows = [*crossed(0.1, 8), *crossed(0.2, 3)]
    assert [line.rpartition("; ")[2].partition(" ")[0] for line in attacker_lines(rows)] == ["80.0", "30.0"]
    figure = transfer_map(rows)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["80"]


def test_a_transfer_is_of_one_budget() -> None:
    weak = [{"name": "pgd20", "step_size": 1e-5}]
    rows = crossed(0.1, 8)
    for row in crossed(0.1, 3):
        rows.append(row.model_copy(update={"attack": row.attack.model_copy(update={"budgets": weak})}))
    assert [line.rpartition("; ")[2].partition(" ")[0] for line in attacker_lines(rows)] == ["80.0", "30.0"]


def test_nothing_is_chosen_from_rows_of_several_radii() -> None:
    rows = [made_row(bits(10), bits(9), at={"robustness": t}, split=SPLIT) for t in (0.0, 1.0)]
    weaker = made_row(
        bits(10), bits(10), at={"robustness": 0.5}, split=SPLIT, attack={**rows[0].attack.plain(), "eps": 0.01}
    )
    assert len(candidates(rows)) == 2
    for more in (weaker, weaker.model_copy(update={"at": rows[0].at})):
        with pytest.raises(ValueError, match=r"linf 0\.01 on digits and linf 0\.1 on digits, which cannot be compared"):
            candidates([*rows, more])
