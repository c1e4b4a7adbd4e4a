"""From rows to a chosen and named point, its card and its commands."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rheostat
from rheostat import data
from rheostat.calibration.temperature import fit_temperature
from rheostat.cli.app import main
from rheostat.data import subset
from rheostat.deploy.choosing import SPLIT, Need, candidates, choose
from rheostat.deploy.ladders import choose_ladder
from rheostat.deploy.latency import bench
from rheostat.deploy.named_points import choose_point, rows_of, store_point, store_points
from rheostat.models import artifact
from rheostat.models.artifact import load_with
from rheostat.points.point import Point
from rheostat.reports.card import card
from rheostat.results.intervals import lower_bound
from rheostat.results.row import Row
from rheostat.results.rows import add_rows
from rheostat.serve.costs import from_rows
from support import images_for, made_row, make


def row(robustness: float, clean: int, robust: int, macs: float = 1e6, n: int = 1000, **more) -> Row:
    bits = [torch.arange(n) < count for count in (clean, robust)]
    cost = {"mean": macs, "p50": macs, "p99": macs}
    return made_row(*bits, **{"split": SPLIT, "at": {"robustness": robustness}, "macs": cost, **more})


CURVE = [row(0, 950, 10), row(0.25, 940, 300), row(0.5, 930, 500), row(0.75, 920, 600, 2e6), row(1, 900, 700)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder: the packaged model, its rows on calibrate-choose."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    folder.mkdir()
    shutil.copy(artifact.packaged()["oat-digits"], folder / "model.safetensors")
    main(["evaluate", str(folder), "--split", SPLIT, "--at", "robustness=0,0.5,1", "--threads", "1"])
    return folder


def test_the_best_point_that_keeps_the_limits() -> None:
    found = choose(CURVE, Need(min_robust=0.45))
    assert found.chosen is not None
    assert found.chosen.point == Point(robustness=0.5)
    assert found.runner_up is not None
    assert found.runner_up.point == Point(robustness=0.75)
    assert found.chosen.robust_bound < 0.5 < found.chosen.robust + 1e-9
    assert found.looked_at == 5
    assert choose(CURVE, Need(min_robust=0.52, max_macs=1.5e6)).chosen.point == Point(robustness=1)
    assert choose(CURVE, Need(), maximise="robust").chosen.point == Point(robustness=1)
    assert choose(CURVE, Need(), maximise="balanced").chosen.point == Point(robustness=0.5)
    assert choose(CURVE[:1], Need(), maximise="balanced").chosen.point == Point(robustness=0)
    # The ranges are those of the points that meet the limits.
    assert choose(CURVE, Need(min_robust=0.4), maximise="balanced").chosen.point == Point(robustness=0.75)
    assert [c.point["robustness"] for c in found.front] == [0, 0.25, 0.5, 0.75, 1]
    dominated = choose([*CURVE, row(0.6, 925, 480)], Need())
    assert 0.6 not in [c.point["robustness"] for c in dominated.front]


def test_a_weaker_attack_of_the_same_name_is_not_believed() -> None:
    weak = [{"name": "pgd20", "step_size": 1e-5}]
    attack = {"name": "worst", "of": ["pgd20"], "norm": "linf", "eps": 0.1}
    rows = [row(0.5, 930, 900, attack={**attack, "budgets": weak}), row(0.5, 930, 500, attack=attack)]
    for both in (rows, rows[::-1]):
        assert [c.robust for c in candidates(both)] == [0.5]


def test_none_and_what_comes_nearest() -> None:
    found = choose(CURVE, Need(min_robust=0.8))
    assert found.chosen is None
    assert found.closest.point == Point(robustness=1)
    assert set(found.closest.lacks(found.need)) == {"min_robust"}


def test_a_ladder_lies_on_the_front_of_time_and_keeps_the_floor() -> None:
    """Robustness × width: half the width takes half the time; the dial itself saves none."""
    rows, times = [], {}
    for width, ms, cut in ((1.0, 10.0, 0), (0.75, 6.0, 20), (0.5, 3.0, 60), (0.25, 2.9, 300)):
        for robustness, clean, robust in ((0.0, 950, 10), (0.5, 930, 500), (1.0, 900, 700)):
            at = {"robustness": robustness, "width": width}
            rows.append(row(0, clean - cut, max(0, robust - cut), at=at))
            times[Point(**at), "fp32"] = ms
    need = Need(min_robust=0.3)
    found = choose_ladder(rows, need, latencies=times)
    assert [(c.point["robustness"], c.point["width"]) for c in found.points] == [(0.5, 1.0), (0.5, 0.75), (0.5, 0.5)]
    assert all(c.robust_bound >= 0.3 for c in found.points)
    assert found.looked_at == 12
    assert {c.point["width"] for c in found.front} == {1.0, 0.75, 0.5, 0.25}
    # The most robust points instead, and two steps: the ends.
    robust = choose_ladder(rows, need, latencies=times, maximise="robust", steps=2)
    assert [(c.point["robustness"], c.point["width"]) for c in robust.points] == [(1.0, 1.0), (1.0, 0.5)]
    worse = [*rows, row(0, 800, 400, at={"robustness": 0.6, "width": 0.75})]
    front_of = choose_ladder(worse, need, latencies={**times, (Point(robustness=0.6, width=0.75), "fp32"): 6.0}).front
    assert 0.6 not in [c.point["robustness"] for c in front_of]
    for more, message in (
        ({"latencies": dict.fromkeys(times, 10.0)}, "a ladder would save no time"),
        ({"latencies": {}}, "needs measured latencies"),
        ({"latencies": times, "maximise": "latency"}, "did you mean|allowed: clean, robust"),
        ({"latencies": times, "steps": 1}, "at least 2 points"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_ladder(rows, need, **more)
    with pytest.raises(ValueError, match="meets every limit"):
        choose_ladder(rows, Need(min_robust=0.9), latencies=times)


def test_more_points_looked_at_mean_lower_bounds() -> None:
    alone = candidates(CURVE[2:3])[0]
    among = next(c for c in candidates(CURVE) if c.point == alone.point)
    assert among.robust_bound < alone.robust_bound
    # 0.5 of 1 000 holds 0.465 alone and not at eleven points: the correction decides.
    many = [row(i / 10, 900, 500) for i in range(11)]
    limit = (alone.robust_bound + candidates(many)[0].robust_bound) / 2
    assert choose([CURVE[2]], Need(min_robust=limit)).chosen is not None
    assert choose(many, Need(min_robust=limit)).chosen is None


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_bound_holds_its_level(case: tuple[int, int]) -> None:
    from scipy.stats import binom

    k, n = case
    low = lower_bound(k, n, confidence=0.95)
    assert 0 <= low <= k / n
    # At the bound, seeing k or more is exactly as unlikely as was said.
    assert k == 0 or binom.sf(k - 1, n, low) == pytest.approx(0.05, abs=1e-6)


def test_nothing_is_chosen_on_test() -> None:
    with pytest.raises(ValueError, match="nothing may be chosen on test"):
        choose([r.model_copy(update={"split": "test"}) for r in CURVE], Need())
    with pytest.raises(ValueError, match="several models"):
        choose([CURVE[0], CURVE[1].model_copy(update={"artifact": "b"})], Need())
    with pytest.raises(ValueError, match="did you mean 'clean'"):
        choose(CURVE, Need(), maximise="cleen")
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Need(min_robust=45)
    for confidence in (95, -1):
        with pytest.raises(ValueError, match=f"confidence must be above 0 and below 1, given {confidence}"):
            choose(CURVE, Need(), confidence=confidence)


def test_a_temperature_makes_probabilities_mean_something() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, abs=0.15)


def test_chosen_stored_and_used_by_name(run: Path, capsys) -> None:
    before = artifact.digest(run)
    main(["choose", str(run), "--min-robust", "0.3", "--max-latency", "1s", "--name", "safe", "--threads", "1"])
    text = " ".join(capsys.readouterr().out.split())
    assert "measured under pgd20" in text
    assert "guarantee" not in text
    assert "upper bounds under the attacks named" in text
    # The hash is of what decides outputs: rows measured before still belong to this file.
    assert artifact.digest(run) == before
    model, about = load_with(run)
    at = model.at("safe")
    numbers = about.measured["safe"]
    assert numbers["split"] == SPLIT
    assert numbers["robust_bound"] >= 0.3
    x = images_for(model)
    assert torch.equal(at(x), model(x, model.points["safe"]))
    assert torch.allclose(at.probabilities(x), (at(x) / numbers["temperature"]).softmax(1))
    assert numbers["ece_after"] <= numbers["ece_before"] + 0.02
    with pytest.raises(SystemExit) as stop:
        main(["choose", str(run), "--min-robust", "0.99"])
    assert stop.value.code == 1
    assert "no measured point" in capsys.readouterr().out
    with pytest.raises(ValueError, match="comes with the package"):
        artifact.name_point("oat-digits", "safe", Point(), {})
    with pytest.raises(ValueError, match="starts with a letter"):
        artifact.name_point(run, "Safe point", Point(), {})


def test_points_are_stored_with_images_of_ones_own_and_all_or_none(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model.safetensors", tmp_path)
    sets = data.make_splits(*data.load("digits"), calibrate=400)
    images = (sets.fit, sets.choose)
    found = choose(rows_of(run, None), Need(min_robust=0.3))
    assert found.chosen is not None
    before = (tmp_path / "model.safetensors").read_bytes()
    other = dataclasses.replace(found.chosen, precision="int8", clean=0.1)
    with pytest.raises(ValueError, match="'second' in int8 has a clean accuracy of"):
        store_points(tmp_path, {"first": found.chosen, "second": other}, found, images=images)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]
    foreign = dataclasses.replace(found.chosen, artifact="0" * 16)
    with pytest.raises(ValueError, match=r"'first' was measured on another model \(0{16}\)"):
        store_point(tmp_path, "first", foreign, found, images=images)
    stored = store_point(tmp_path, "first", found.chosen, found, images=images)
    assert load_with(tmp_path)[1].measured["first"] == stored
    few = store_point(tmp_path, "first", found.chosen, found, images=(subset(sets.fit, 20), sets.choose))
    assert few["temperature"] != stored["temperature"]


def test_a_limit_on_latency_holds_for_a_model_without_dials(tmp_path: Path) -> None:
    artifact.save(tmp_path / "model.safetensors", make("pgd-at", "small_cnn").eval())
    add_rows(tmp_path / "rows.jsonl", [row(0, 900, 500, at={}, artifact=artifact.digest(tmp_path))])
    found = choose_point(tmp_path, Need(max_latency=1e4))
    assert found.chosen is not None
    assert found.chosen.latency is not None


def test_what_a_point_costs() -> None:
    model, about = load_with("oat-digits")
    found = bench(model, about, [model.complete(Point(robustness=1.0))], seconds=0.05)
    assert [c.form for c in found][:3] == ["eager", "folded", "ONNX Runtime"]
    assert all(0 < c.p50[b] <= c.p99[b] for c in found for b in (1, 32))
    assert len({c.macs for c in found}) == 1


def test_bench_writes_the_times_that_serve_reads(tmp_path: Path, capsys) -> None:
    out = tmp_path / "bench.jsonl"
    main(["bench", "oat-digits", "--at", "robustness=0,1", "--seconds", "0.05", "--out", str(out), "--threads", "1"])
    assert f"wrote {out}" in capsys.readouterr().out.replace("\n", "")
    digest = artifact.digest("oat-digits")
    points = {"safe": {"robustness": 1.0}, "fast": {"robustness": 0.0}}
    found = from_rows(out, points, artifact=digest, forms=dict.fromkeys(points, ("ONNX Runtime",)))
    assert [n for n, _ in found["safe"].measured] == [1, 32]
    assert 0 < found["safe"](1) < 1


def test_a_card_says_what_was_measured(run: Path, capsys) -> None:
    main(["card", str(run)])
    text = capsys.readouterr().out
    (line,) = (line for line in text.splitlines() if line.startswith("| t = 1 |"))
    assert "| calibrate-choose |" in line
    assert "pgd20 (linf 0.2)" in text
    assert "are measured, not certified" in text
    model, about = load_with("oat-digits")
    empty = card(model, about, [], name="x", digest="d")
    assert "Nothing has been measured" in empty


def test_the_command_line_speaks_plainly(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    add_rows(tmp_path / "others.jsonl", [CURVE[0]], {})
    for arguments, message in (
        (["choose", "oat-digits"], "no rows beside oat-digits"),
        (["choose", str(run), "--ladder", "safe,fast", "--name", "safe"], "give only one of them"),
        (["choose", str(run), "--costs", "bench.jsonl"], "give --ladder too"),
        (["choose", str(run), "--ladder", "safe,safe"], "names of a ladder must differ"),
        (["serve", "oat-digits", "--unmeasured-points", "--controller", "slak"], "did you mean 'slack'"),
        (["serve", "oat-digits", "--unmeasured-points", "--costs", "none.jsonl"], "no file none.jsonl"),
        (["card", str(run), "--rows", "rosw.jsonl"], "no file rosw.jsonl"),
        (["push", str(run), "lab/shop", "--rows", "others.jsonl"], "others.jsonl has no rows of the model in"),
        (["choose", str(run), "--max-macs", "20X"], "cannot read macs '20X'"),
        (["export", str(run), "--at", "sage"], "no point named 'sage'"),
        (["export", str(run), "--at", "robustness=0,1"], "export takes one point"),
        (["export", str(run), "--dial", "liv"], "did you mean 'live'"),
        (["serve", "oat-digits"], "has no named points to serve"),
        (["serve", "oat-digits", "--unmeasured-points", "--open-policy", "--host", "0.0.0.0"], "set a token"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    main(["export", str(run), "--at", "robustness=1"])
    assert "wrote digits.onnx" in capsys.readouterr().out
    assert rheostat.load(run).at(robustness=1.0) is not None
