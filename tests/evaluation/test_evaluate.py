"""Evaluation: rows, bits, intervals, reports, factories; a planted weakness is found."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from torch import nn

import rheostat
from rheostat.attacks import Attack, named
from rheostat.calibration.dial import Knot, calibrate_dial, fitted
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.arguments import as_points
from rheostat.evaluation.attacked import attack_chunk, outcome, victim_at
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models.factories import from_factory
from rheostat.points.grid import parse_grid
from rheostat.points.point import Point
from rheostat.reports import trade_off, write_report
from rheostat.results.areas import compared, hypervolume, normalised
from rheostat.results.bits import read_bits
from rheostat.results.intervals import exact, not_lower, paired, reversals
from rheostat.results.labels import point_label, worst_rows
from rheostat.results.rows import read_rows


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 130)


def test_rows_bits_and_resumption(model, sample, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    points = parse_grid("robustness=0,1")
    attacks = [named("fgsm", eps=0.2), named("pgd10", eps=0.2)]
    passes: list[int] = []
    hook = model.net.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    rows = evaluate(Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=out))
    assert sum(passes) > len(sample)
    assert rows == read_rows(out)
    assert [r.attack.name for r in rows] == ["fgsm", "pgd10", "worst"] * 2
    for fgsm, pgd, worst in (rows[:3], rows[3:]):
        assert fgsm.robust_accuracy >= pgd.robust_accuracy == worst.robust_accuracy
        assert (fgsm.cumulative, pgd.cumulative) == (False, True)
        for row in (fgsm, pgd, worst):
            clean, robust = read_bits(out).of(row)
            assert float(clean.double().mean()) == row.clean_accuracy
            assert float(robust.double().mean()) == row.robust_accuracy
            assert not bool((robust & ~clean).any())
            low, high = row.interval.robust
            assert low <= row.robust_accuracy <= high
            assert row.queries > 0
            assert row.versions["torch"] == torch.__version__
    # A finished point is not measured again: the model is not even called.
    passes.clear()
    again = evaluate(Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=out))
    hook.remove()
    assert [r.identity for r in again] == [r.identity for r in rows]
    assert len(read_rows(out)) == 6
    assert passes == []


def test_a_module_that_gives_no_logits_is_refused(sample) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"."):
        evaluate(Target(nn.Identity(), "x"), [None], [named("fgsm", eps=0.2)], sample)


def test_the_same_seed_gives_the_same_bits_in_any_order(model, sample) -> None:
    attack = named("pgd5", eps=0.2)
    a = outcome(model, Point(robustness=1.0), sample, attack)
    outcome(model, Point(robustness=0.5), sample, attack)
    b = outcome(model, Point(robustness=1.0), sample, attack)
    assert torch.equal(a.robust, b.robust)
    part = outcome(model, Point(robustness=1.0), sample.only(torch.arange(100)), attack)
    assert torch.equal(part.robust, a.robust[:100])


def test_robust_accuracy_falls_in_eps_and_at_zero_is_clean(model, sample) -> None:
    point = Point(robustness=1.0)
    found = [outcome(model, point, sample, named("pgd10", eps=e)) for e in (0.0, 0.05, 0.2, 0.6)]
    means = [float(f.robust.double().mean()) for f in found]
    assert means == sorted(means, reverse=True)
    assert torch.equal(found[0].robust, found[0].clean)
    assert means[-1] < 0.02


def test_a_transfer_attack_is_weaker_than_one_made_at_the_point(model, sample) -> None:
    x, y = to_pixels(sample.images), sample.labels
    attack = named("pgd20", eps=0.2)
    robust, other = Point(robustness=1.0), Point(robustness=0.0)
    own = attack(model.objective(y, robust), x)
    moved = attack(model.objective(y, other), x)
    hit = [float((model(m, robust).argmax(1) == y).double().mean()) for m in (own, moved)]
    assert hit[0] + 0.1 < hit[1]


def test_an_attack_that_cheats_is_found(model, sample) -> None:
    x, y = to_pixels(sample.images[:10]), sample.labels[:10]

    class Outside(Attack):
        def __call__(self, objective, images, generator=None, *, share=None):
            return (images + 2 * self.eps).clamp(0, 1)

    class Lazy(Attack):
        def __call__(self, objective, images, generator=None, *, share=None):
            return images

    victim = victim_at(model, Point(robustness=1.0))
    found = attack_chunk(victim, x, y, Outside("pgd", 0.1, label="outside"), (0,))
    assert torch.equal(found.outside, found.clean)
    assert torch.equal(found.robust, found.clean)
    assert torch.equal(found.adversarial, x)
    found = attack_chunk(victim, x, y, Lazy("pgd", 0.1, label="lazy"), (0,))
    clean, robust = found.clean, found.robust
    assert torch.equal(clean, robust)


def test_calibration_makes_the_dial_about_linear(model, digits) -> None:
    fresh = rheostat.load("oat-digits")
    fresh.dial_map = None
    calibrate_dial(fresh, subset(digits[0], 200), named("pgd5", eps=0.2), coarse=5, most=9)
    rises = [
        float(outcome(fresh, Point(robustness=t), digits[1], named("pgd10", eps=0.2)).robust.double().mean())
        for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    steps = [b - a for a, b in itertools.pairwise(rises)]
    total = rises[-1] - rises[0]
    assert total > 0.4
    assert all(0.03 < s < 0.6 * total for s in steps)
    with pytest.raises(ValueError, match="does not rise"):
        fitted(fresh, [Knot(0, 0.9, 0.5), Knot(1, 0.9, 0.5)])


def test_intervals_against_known_values() -> None:
    for k, n in ((0, 7), (3, 7), (7, 7), (431, 2000), (1, 10000)):
        low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
        high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
        assert exact(k, n) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert exact(0, 10) == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert exact(5, 10) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))
    a = torch.tensor([True] * 30 + [False] * 70)
    b = torch.tensor([True] * 20 + [False] * 80)
    difference, low, high = paired(a, b)
    assert difference == pytest.approx(0.1)
    assert 0 < low < 0.1 < high < 0.2
    assert not_lower(a.repeat(10), a.repeat(10))
    assert not not_lower(b, a)
    assert reversals([b, a, a]) == []
    assert reversals([a, b]) == [0]


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_exact_interval_holds_its_share(case: tuple[int, int]) -> None:
    k, n = case
    low, high = exact(k, n)
    assert 0 <= low <= k / n <= high <= 1


def test_grids() -> None:
    assert [p["robustness"] for p in parse_grid("robustness=0:1:0.1")] == [round(0.1 * i, 9) for i in range(11)]
    assert len(parse_grid("robustness=0,0.5,1 width=0.5,1")) == 6
    assert parse_grid("") == [Point()]
    for bad in ("robustness", "robustness=a", "robustness=0:1:0", "robustness=0:1"):
        with pytest.raises(ValueError, match="cannot read"):
            parse_grid(bad)


def test_a_report_is_whole_and_offline(model, sample, tmp_path: Path) -> None:
    rows = evaluate(Target(model, "x"), parse_grid("robustness=0,0.5,1"), [named("pgd3", eps=0.2)], sample)
    rows[-1] = rows[-1].model_copy(update={"flags": ["robust-overfitting"]})
    paths = write_report(rows, tmp_path, title="<b>", recipe={"a": 1})
    text = paths[0].read_text()
    assert all(p.stat().st_size > 1000 for p in paths)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "&lt;b&gt;" in text
    assert "Raised: robust-overfitting" in text
    assert text.count("<tr>") == 2 * (1 + len(worst_rows(rows)))  # points; classes
    assert trade_off(rows).axes
    with pytest.raises(ValueError, match="no rows to report"):
        write_report([], tmp_path, title="x")


def test_a_users_own_network_is_measured(sample, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    target = Target(from_factory("own_net:make"), "own")
    rows = evaluate(target, [None], [named("pgd5", eps=0.1)], sample)
    assert rows[-1].at == {}
    assert rows[-1].robust_accuracy <= rows[-1].clean_accuracy
    assert json.dumps([r.plain() for r in rows])
    for text, message in (
        ("own_net:mak", "did you mean 'make'"),
        ("own_net:wrong", "returned a int"),
        ("no_such_net:make", "cannot import"),
    ):
        with pytest.raises(ValueError, match=message):
            from_factory(text)


def test_plain_models_names_and_dicts_do(model, sample) -> None:
    options = EvaluationOptions(eps=0.2)
    rows = rheostat.evaluate(model, [{"robustness": 1}], "fgsm,pgd3", sample, options=options)
    assert [r.attack.name for r in rows] == ["fgsm", "pgd3", "worst"]
    assert (rows[-1].run, rows[-1].at, rows[-1].dial) == ("Tunable", {"robustness": 1.0}, "t")
    same = evaluate(Target(model, "x"), "robustness=1", [named("fgsm", eps=0.2), "pgd3"], sample, options=options)
    assert [r.robust_accuracy for r in same] == [r.robust_accuracy for r in rows]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    (_, worst) = evaluate(net, None, "fgsm", sample, options=replace(options, name="mine", probing=False))
    assert (worst.run, worst.at, worst.dial, worst.net) == ("mine", {}, None, "Sequential")
    assert len(evaluate(model, None, "fgsm", sample.only(torch.arange(5)), options=options)) == 2 * 11
    bare = rheostat.load("oat-digits")
    bare.about = None
    with pytest.raises(ValueError, match=r"no threat model; give --eps \(in Python: EvaluationOptions\(eps=\)\)"):
        evaluate(bare, None, "fgsm", sample)
    with pytest.raises(ValueError, match="has no dials"):
        evaluate(net, "robustness=1", "fgsm", sample, options=options)
    with pytest.raises(ValueError, match="at least one attack"):
        evaluate(model, None, [], sample)
    with pytest.raises(ValueError, match="at least one point"):
        evaluate(model, [], "fgsm", sample, options=EvaluationOptions(eps=0.1))
    every = as_points(Target(model, "x"), None)
    assert len(every) == 11
    assert as_points(Target(model, "x"), " ; ") == every  # not the rest point alone
    with pytest.raises(ValueError, match="no split 'tset'"):
        EvaluationOptions(split="tset")


def test_a_model_is_attacked_in_its_own_threat_model_unless_another_is_named(sample) -> None:
    model, few = rheostat.load("oat-digits"), sample.only(torch.arange(5))
    assert model.about is not None
    model.about = replace(model.about, threat={"norm": "l2", "eps": 0.5})

    def budget(**options) -> tuple[str, float]:
        (row, _) = evaluate(model, "robustness=1", "fgsm", few, options=EvaluationOptions(**options))
        return row.attack.norm, row.attack.eps

    assert budget() == ("l2", 0.5)
    assert budget(eps=0.25) == ("l2", 0.25)
    assert budget(eps=0.1, norm="linf") == ("linf", 0.1)
    with pytest.raises(
        ValueError, match="trained in l2, and its radius holds in that norm alone; --norm linf needs --eps"
    ):
        budget(norm="linf")


def test_a_position_without_a_dial_map_is_a_training_lambda(sample) -> None:
    bare = rheostat.load("oat-digits")
    bare.dial_map = None
    rows = evaluate(bare, "robustness=0", "fgsm", sample, options=EvaluationOptions(eps=0.1))
    assert point_label(rows[-1]) == "λ = 0"
    bare = rheostat.load("oat-digits")
    rows = evaluate(bare, "robustness=0", "fgsm", sample, options=EvaluationOptions(eps=0.1))
    assert point_label(rows[-1]) == "t = 0"


def test_hypervolume_by_hand_and_its_normalisation() -> None:
    assert hypervolume([(0.9, 0.2), (0.8, 0.5)], (0.7, 0.0)) == pytest.approx(0.2 * 0.2 + 0.1 * 0.3)
    # A dominated point adds nothing; one below the reference neither.
    assert hypervolume([(0.9, 0.2), (0.85, 0.1), (0.6, 0.9)], (0.7, 0.0)) == pytest.approx(0.04)
    generator = torch.Generator().manual_seed(0)

    def bits(clean: float, robust: float) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.rand(2000, generator=generator)
        return draw < clean, draw < robust

    base = [bits(0.9, 0.0), bits(0.8, 0.6)]
    value, low, high = normalised(base, base, draws=200)
    assert value == pytest.approx(1)
    assert low < 1 < high
    more = bits(0.88, 0.55)
    better = normalised([*base, more], base, draws=200)
    assert better[1] > 1
    assert compared(base, base, (0.7, 0.0), draws=50) == (0, 0, 0)
    gap, low, high = compared([*base, more], base, (0.7, 0.0), draws=200)
    assert gap == pytest.approx(0.08 * 0.55, abs=0.02)
    assert 0 < low < gap < high
    with pytest.raises(ValueError, match="not paired"):
        compared(base, [(more[0][:10], more[1][:10])], (0.7, 0.0))
