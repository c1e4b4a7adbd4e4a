"""An attack is named by a key of the registry and its budget; its text in rows never changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rheostat.attacks import ATTACKS, Attack, AttackKind, TierEntry, named, register, training_step_size
from rheostat.evaluation.tiers import attacks_of, tier_names, untargeted

EPS = 0.1
# name: steps, step size, restarts, loss, form, draws, as rows have had them since version 1
ROWS = {
    "pgd20": (20, 0.0125, 1, "ce", "direct", 1),
    "pgd50x5-dlr": (50, 0.005, 5, "dlr", "direct", 1),
    "pgd20-margin-eot20": (20, 0.0125, 1, "margin", "direct", 20),
    "pgd20x1-ce": (20, 0.0125, 1, "ce", "direct", 1),
    "pgd20@average": (20, 0.0125, 1, "ce", "average", 1),
    "fgsm@exit-1": (1, 0.1, 1, "ce", "exit-1", 1),
    "fgsm": (1, 0.1, 1, "ce", "direct", 1),
    "mi-fgsm": (10, 0.025, 1, "ce", "direct", 1),
    "apgd-ce": (100, 0.2, 1, "ce", "direct", 1),
    "apgd-t": (100, 0.2, 1, "dlr", "direct", 1),
    "square": (1000, 0.2, 1, "margin", "direct", 1),
    "square200": (200, 0.2, 1, "margin", "direct", 1),
    "square1000": (1000, 0.2, 1, "margin", "direct", 1),
    "autoattack": (100, 0.2, 1, "ce", "direct", 1),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_entry_of_a_row_is_that_of_version_1(name: str) -> None:
    steps, size, restarts, loss, form, draws = ROWS[name]
    row = named(name, eps=EPS, norm="l2").row()
    assert list(row) == ["name", "eps", "steps", "step_size", "norm", "restarts", "loss", "form", "eot"]
    assert row == {
        "name": name,
        "eps": EPS,
        "steps": steps,
        "step_size": pytest.approx(size),
        "norm": "l2",
        "restarts": restarts,
        "loss": loss,
        "form": form,
        "eot": draws,
    }


def test_a_name_follows_from_the_fields_unless_there_is_a_label() -> None:
    attack = Attack("pgd", EPS, 10)
    assert attack.name == "pgd10"
    assert replace(attack, steps=40, restarts=2, form="average").name == "pgd40x2@average"
    assert replace(attack, steps=40, label="longer").name == "longer"
    assert Attack("square", EPS).steps == 1000
    assert Attack("mi-fgsm", EPS).momentum == 1.0
    assert Attack("fgsm", EPS) == named("fgsm", eps=EPS)


def test_a_step_size_is_for_attacks_that_take_one() -> None:
    sizes = {n: named(n, eps=EPS, step_size=0.03).size for n in ("pgd20", "mi-fgsm", "fgsm", "apgd-ce", "square")}
    assert sizes == {"pgd20": 0.03, "mi-fgsm": 0.03, "fgsm": EPS, "apgd-ce": 2 * EPS, "square": 2 * EPS}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sqaure", {}, "no attack 'sqaure'; did you mean 'square'"),
        ("pgd10", {}, r"'pgd10' is the name of an attack, not a kind; write named\('pgd10'"),
        ("fgsm", {"steps": 3}, "fgsm takes exactly 1 step, given 3"),
        ("n-fgsm", {"norm": "l2"}, "n-fgsm is an L∞ attack"),
        ("pgd", {"steps": 0}, "at least 1 step, given 0"),
        ("pgd", {"loss": "cee"}, "did you mean 'ce'"),
        ("pgd", {"eot": 0}, "at least 1, given 0"),
        *((kind, {"restarts": 0}, "restarts, .*at least 1, given 0") for kind in ("pgd", "apgd-ce", "apgd-t")),
        ("apgd-ce", {"loss": "margin"}, r"apgd-ce ignores loss, given margin; leave it out .*steps, restarts, eot\)"),
        ("apgd-t", {"step_size": 0.1}, "apgd-t ignores step_size, given 0.1"),
        ("square", {"restarts": 5}, r"square ignores restarts, given 5; leave it out \(it takes eps, norm, steps\)"),
        ("square-rescaled", {"eot": 20}, "square-rescaled ignores eot, given 20"),
        ("autoattack", {"steps": 1000}, r"autoattack ignores steps, given 1000; .*\(it takes eps, norm\)"),
        ("autoattack", {"drop": False}, "autoattack ignores drop, given False"),
    ],
)
def test_a_mistake_is_named(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attack(kind, EPS, **options)


def test_names_that_no_kind_reads() -> None:
    for text, message in (
        ("sqaure", "did you mean 'square'"),
        ("n-fgsm", "no attack 'n-fgsm'"),  # its images leave the ball: for training alone
        ("pgd20@", "no form after @"),
        ("apgd-ce@average", "attacks the final decision"),
    ):
        with pytest.raises(ValueError, match=message):
            named(text, eps=EPS)


def test_training_attacks_are_those_of_the_recipes() -> None:
    options = {"norm": "linf", "steps": 7, "step_size": None, "restarts": 2, "loss": "margin"}
    pgd = ATTACKS.get("pgd").training(eps=EPS, **options)
    assert (pgd.steps, pgd.size, pgd.restarts, pgd.loss, pgd.drop) == (
        7,
        training_step_size(EPS, 7),
        2,
        "margin",
        False,
    )
    fast = ATTACKS.get("n-fgsm").training(eps=EPS, **options)
    assert (fast.steps, fast.size, fast.restarts, fast.loss, fast.drop) == (1, EPS, 1, "margin", False)


def test_tiers_are_put_together_from_what_attacks_declare() -> None:
    standard = ["pgd20", "fgsm", "mi-fgsm", "apgd-ce", "apgd-t", "square2000-rescaled"]
    assert attacks_of("quick", 10) == ["pgd20"]
    assert attacks_of("standard", 10) == standard
    assert attacks_of("full", 10) == [*standard, "autoattack"]
    assert attacks_of("standard", 3) == [n if n != "apgd-t" else "pgd100-margin" for n in standard]
    assert (untargeted("standard", 3), untargeted("standard", 4), untargeted("quick", 3)) == (True, False, False)
    assert tier_names()[:3] == ["quick", "standard", "full"]
    with pytest.raises(ValueError, match="no tier 'standart'; did you mean 'standard'"):
        attacks_of("standart", 10)


def test_a_tier_of_ours_means_the_same_attacks_everywhere() -> None:
    class Foreign(AttackKind):
        name = "foreign"
        tiers = (TierEntry("foreign", order=1, tiers=("standard",)),)

    with pytest.raises(ValueError, match="the tier 'standard' holds built-in attacks only"):
        register(Foreign)
    assert "foreign" not in ATTACKS
