"""Rows of attacks with other budgets are other measurements; the identity of a usual budget stays what it was."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from rheostat.attacks import Attack, named
from rheostat.data import Dataset, subset
from rheostat.evaluation.arguments import as_attacks
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.results.listed import Rows
from rheostat.results.row import AttackEntry
from rheostat.results.rows import read_rows

EPS = 0.1
NAMES = ("pgd20", "pgd50x5", "pgd20x1", "pgd100-margin", "pgd20-eot20", "pgd20@average", "fgsm", "mi-fgsm")
REFERENCES = ("apgd-ce", "apgd-t", "square", "square1000", "square200", "square2000-rescaled", "autoattack")


@pytest.fixture(scope="module")
def few(digits) -> Dataset:
    return subset(digits[1], 20)


@pytest.mark.parametrize("name", [*NAMES, *REFERENCES])
def test_a_usual_budget_adds_nothing_to_a_row(name: str) -> None:
    assert named(name, eps=EPS).beyond_name() == {}
    entry = AttackEntry.model_validate(named(name, eps=EPS).row()).plain()
    assert list(entry) == ["name", "eps", "norm", "steps", "step_size", "restarts", "loss", "form", "eot"]


def test_settings_that_the_name_does_not_imply_are_stated() -> None:
    momentum = Attack("pgd", EPS, momentum=1.0, start=False)
    assert momentum.name == "pgd20"
    assert momentum.beyond_name() == {"start": False, "momentum": 1.0}
    assert AttackEntry.model_validate(momentum.row()).start is False
    assert named("pgd20", eps=EPS, step_size=0.001).beyond_name() == {"step_size": 0.001}
    assert Attack("pgd", EPS, drop=False, form="average").beyond_name() == {"drop": False}
    assert Attack("mi-fgsm", EPS, label="mine").beyond_name() == {}
    assert Attack("mi-fgsm", EPS, 20, label="mine").beyond_name() == {"steps": 20}


def test_a_step_size_that_no_attack_takes_is_refused() -> None:
    options = EvaluationOptions(eps=EPS, step_size=0.01)
    for names in ("apgd-ce", "square,fgsm", "autoattack"):
        with pytest.raises(ValueError, match=r"no attack here takes the step size 0\.01"):
            as_attacks(Target(nn.Identity(), "plain"), names, options)
    found = as_attacks(Target(nn.Identity(), "plain"), "pgd20,apgd-ce", options)
    assert [a.step_size for a in found] == [0.01, None]


def test_images_of_a_size_that_an_attack_cannot_take_are_refused_before_any_work(few) -> None:
    padded = replace(few, images=nn.functional.pad(few.images, (8, 8, 8, 8)))
    seen: list[int] = []
    plain = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 10))
    plain.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with pytest.raises(ValueError, match=r"square5 in L2 cannot take images of 24 × 24.*--attack"):
        evaluate(plain, None, ["pgd2", "square5"], padded, options=EvaluationOptions(eps=EPS, norm="l2", name="plain"))
    assert not seen


def test_another_step_size_does_not_take_the_place_of_the_worst_case(model, few, tmp_path: Path) -> None:
    def measured(*attacks: Attack) -> Rows:
        return evaluate(model, "robustness=1", attacks, few, options=EvaluationOptions(out=tmp_path / "rows.jsonl"))

    usual, fgsm = named("pgd3", eps=EPS), named("fgsm", eps=EPS)
    sets = ((usual, fgsm), (named("pgd3", eps=EPS, step_size=1e-5), fgsm), (Attack("pgd", EPS, 3, start=False), fgsm))
    rows = [measured(*attacks) for attacks in sets]
    assert rows[0][-1].robust_accuracy < rows[1][-1].robust_accuracy
    for a, b in itertools.combinations(rows, 2):  # all rows differ: fgsm runs on what pgd3 left
        assert not {r.identity for r in a} & {r.identity for r in b}
    assert rows[0][-1].attack.budgets is None
    assert rows[1][-1].attack.budgets == rows[1][1].attack.budgets == [{"name": "pgd3", "step_size": 1e-5}]
    assert measured(*sets[0]) == rows[0]
    assert len(read_rows(tmp_path / "rows.jsonl")) == 9


def test_attackers_with_less_knowledge_name_their_attacks(model, few) -> None:
    def crossed(attack: Attack, **options: bool) -> dict[str, AttackEntry]:
        asked = EvaluationOptions(**options)
        return {r.attack.name: r.attack for r in evaluate(model, "robustness=0,1", [attack], few, options=asked)}

    usual = crossed(named("pgd20", eps=EPS), transfer=True)
    for name in ("transfer", "unknown", "chosen"):
        assert (usual[name].attacks, usual[name].budgets) == (None, None)
    weak = crossed(named("pgd2", eps=EPS, step_size=0.01), transfer=True)
    for name in ("transfer", "unknown", "chosen"):
        assert (weak[name].attacks, weak[name].budgets) == (["pgd2"], [{"name": "pgd2", "step_size": 0.01}])
    assert crossed(named("pgd2", eps=EPS), warm=True)["warm"].attacks == ["pgd2"]


def test_attacks_of_several_radii_or_norms_are_refused(model) -> None:
    options = EvaluationOptions(eps=0.2)
    with pytest.raises(ValueError, match=r"given fgsm with linf 0\.20000000001 and pgd20 with linf 0\.2; evaluate"):
        as_attacks(Target(model, "x"), [named("fgsm", eps=0.20000000001), "pgd20"], options)
    for other in (named("pgd20", eps=0.1), named("fgsm", eps=0.2, norm="l2")):
        with pytest.raises(ValueError, match=r"one norm and one eps, given .* with .*; evaluate them apart"):
            as_attacks(Target(model, "x"), [other, "pgd20"], options)
