"""A point with live exits costs what its exits cost, by the shares of images that take them: never one image alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rheostat import data, nets
from rheostat.cli.app import main
from rheostat.deploy import leaving, named_ladders
from rheostat.deploy.choosing import SPLIT, Need, candidates, choose
from rheostat.deploy.exporting import export
from rheostat.deploy.leaving import ways, weights_of
from rheostat.deploy.named_ladders import Sources, choose_ladder_points
from rheostat.deploy.named_points import latencies, rows_of, store_point
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.methods.composition import compose
from rheostat.methods.exits import ExitCommand
from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.costs import Latency, exit_costs, live_exits, observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.rows import add_rows, read_rows
from rheostat.results.timings import read_timings
from rheostat.serve import backends
from rheostat.serve.costs import Times
from support import images_for, made_row, make

SHARES = (0.5, 0.25, 0.25)
EARLY, STATIC = Point(exit=1.0, depth=3.0), Point(exit=0.0, depth=3.0)


def slow_by_depth(forms: Mapping, image: tuple[int, ...], *, batch: int = 1, seconds: float = 1.0) -> dict:
    """Instead of `latency`: a form takes as many milliseconds as it has exits that leave by plan, else ten."""
    del seconds, image
    found = {k: sum(isinstance(m, leaving._Planned) for m in f.modules()) or 10 for k, f in forms.items()}
    return {key: Latency(batch, *[float(ms)] * 4, 10, 1) for key, ms in found.items()}


@pytest.fixture
def model() -> Tunable:
    """A small model whose policy lets every image leave at the first exit."""
    torch.manual_seed(0)
    made = Tunable(nets.small_cnn(base_width=8, image=(1, 8, 8)), compose("rdi"))
    made.net.get_buffer("thresholds").fill_(2.5)
    assert live_exits(made, EARLY) == 3
    assert live_exits(made, STATIC) == 0
    return made.eval()


@pytest.fixture
def run(model: Tunable, tmp_path: Path) -> Path:
    """A run's folder with rows of the point with live exits, and of the static one."""
    folder = tmp_path / "early"
    folder.mkdir()
    classes = tuple(str(i) for i in range(10))
    artifact.save(folder / "model.safetensors", model, About(classes=classes, threat={"norm": "linf", "eps": 0.1}))
    bits, more = (torch.arange(200) < count for count in (150, 160))
    common = {"artifact": artifact.digest(folder), "split": SPLIT}
    mean = sum(share * cost for share, cost in zip(SHARES, exit_costs(model, EARLY).macs, strict=True))
    macs = {"mean": mean, "p50": mean, "p99": mean}
    early = made_row(bits, at=EARLY.numbers(), exit_shares={"clean": list(SHARES)}, macs=macs, **common)
    add_rows(folder / "rows.jsonl", [early, made_row(more, at=STATIC.numbers(), **common)], {})
    return folder


def test_observed_is_the_image_that_leaves_early_nowhere() -> None:
    """The black image leaves at the first exit."""
    model = make("rdi", "resnet-8")
    costs = exit_costs(model, EARLY)
    assert observe(model, model.net.image, EARLY).macs == costs.macs[-1] > costs.macs[0]
    assert observe(model, model.net.image, EARLY).convolution_macs == costs.convolutions[-1]


def test_every_form_leaves_by_plan(model: Tunable, tmp_path: Path) -> None:
    x, costs = images_for(model, 16), exit_costs(model, EARLY).macs
    file = export(model, About(), tmp_path / "x.onnx", at=EARLY)[0]
    forms: dict[str, nn.Module] = {
        "eager": model.at(EARLY),
        "folded": fold(model, EARLY),
        "file": SessionModule(Session(file)),
    }
    with torch.no_grad():
        free = model(x, EARLY)
        last = model.read(x, model.resolve(EARLY, x).with_(ExitCommand(leave=2))).logits
        for name, form in forms.items():
            for (share, plan), leave in zip(ways({0: 0.5, 1: 0.25, 2: 0.25}, 1), range(3), strict=True):
                assert share == SHARES[leave]
                with FlopCounterMode(display=False) as counter:
                    leaving.leaving(form, plan)(x[:1])
                assert name == "file" or counter.get_total_flops() // 2 == costs[leave]
            ((share, plan),) = ways({0: 0.5, 1: 0.25, 2: 0.25}, 16)
            assert (share, plan) == (1.0, (0.5, 0.5, 1.0))
            found = leaving.leaving(form, plan[:2])(x)
            stayed = (found < 1e3).all(1)
            assert stayed.sum() == 4, "a quarter of the images reaches the end"
            assert torch.allclose(found[stayed], last[stayed], atol=1e-4)
            assert torch.allclose(form(x), free, atol=1e-4), "the form itself is unchanged"


def test_times_are_means_over_the_exits_or_without_shares_those_of_the_last(model: Tunable, monkeypatch) -> None:
    monkeypatch.setattr(leaving, "latency", slow_by_depth)
    assert latencies(model, [EARLY], shares={EARLY: SHARES}) == {EARLY: 0.5 * 1 + 0.25 * 2 + 0.25 * 3}
    assert latencies(model, [EARLY, STATIC]) == {EARLY: 3.0, STATIC: 10.0}
    # One image in a thousand does not make the 99th percentile, and an exit that no image takes is not timed.
    weights = weights_of(model, EARLY, {EARLY: (0.999, 0.0, 0.001)})
    assert set(weights) == {0, 2}
    found = leaving.mean_latency({"x": fold(model, EARLY)}, {"x": weights}, model.net.image)["x"]
    assert (found.p99, found.n) == (1.0, 20)


def test_bench_knows_the_shares_or_says_that_it_does_not(run: Path, model: Tunable, tmp_path: Path, capsys) -> None:
    out, costs = tmp_path / "bench.jsonl", exit_costs(model, EARLY).macs
    arguments = ["--at", "exit=1", "--seconds", "0.05", "--threads", "1", "--out", str(out)]
    main(["bench", str(run), *arguments])
    assert "it is not known" not in capsys.readouterr().out
    for row in read_timings(out):
        assert row["exit_shares"] == list(SHARES)
        assert row["macs"] == round(sum(share * cost for share, cost in zip(SHARES, costs, strict=True)))
    (run / "rows.jsonl").unlink()
    main(["bench", str(run), *arguments])
    text = " ".join(capsys.readouterr().out.split())
    assert "exit=1: it is not known which exits images take, so times and MACs are of images that no exit" in text
    for row in read_timings(out):
        assert row["exit_shares"] is None
        assert row["macs"] == costs[-1]


def test_shares_are_stored_with_a_point_and_used_by_the_service(run: Path, monkeypatch, tmp_path: Path) -> None:
    sets = data.make_splits(*data.load("digits"), calibrate=100)
    rows = rows_of(run, None)
    found = choose(rows, Need())
    (early,) = (c for c in candidates(rows) if c.point == EARLY)
    stored = store_point(run, "early", early, found, images=(sets.fit, sets.choose))
    assert stored["exit_shares"] == list(SHARES)
    artifact.name_point(run, "unknown", EARLY.replace(exit=0.5), {})

    def measure(runs: Mapping, image: tuple[int, ...], most: int) -> dict:
        """The exit of a single image takes as many seconds as its number says."""
        return {key: Times(((1, key[1] + 1.0), *([] if most == 1 else [(most, 100.0)]))) for key in runs}

    monkeypatch.setattr(backends, "measure", measure)
    for backend in ("torch", "auto"):
        served = backends.service(str(run), backend=backend, threads=1, most=256)
        assert served.costs == {
            "early": Times(((1, 1.75), (256, 100.0))),
            "unknown": Times(((1, 1.0), (256, 100.0)), early=False),
        }
    # Shares that are not of this point do not load, and are not stored.
    for wrong in ([0.5, 0.5], [0.5, 0.25, 0.5], [1.5, -0.25, -0.25]):
        with pytest.raises(ValueError, match="exit_shares"):
            artifact.name_point(run, "early", EARLY, {"exit_shares": wrong})


def timing(run: Path, form: str, at: Point, ms: float, **more) -> str:
    times = {"1": ms, "32": 32 * ms}
    return json.dumps({"artifact": artifact.digest(run), "at": at.numbers(), "form": form, "p50_ms": times, **more})


def test_a_ladder_reads_times_that_count_the_exits(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    static = timing(run, "ONNX Runtime", STATIC, 4.0)
    for more, problem in (({}, "on a single image; bench it again"), ({"exit_shares": None}, "")):
        file.write_text(f"{static}\n{timing(run, 'ONNX Runtime', EARLY, 2.0, **more)}\n")
        artifact.name_point(run, "early", EARLY, {"exit_shares": list(SHARES)})
        if problem:
            with pytest.raises(ValueError, match=problem):
                choose_ladder_points(Sources(run, costs=file), Need(), steps=2)
            with pytest.raises(ValueError, match=problem):
                backends.service(str(run), threads=1, costs=file)
        else:
            found = choose_ladder_points(Sources(run, costs=file), Need(), steps=2)
            assert any("has times of images that no exit lets leave early" in note for note in found.notes)
            assert not found.in_torch
            assert not backends.service(str(run), threads=1, costs=file).costs["early"].early


def test_a_ladder_is_timed_in_the_fastest_runtime_of_each_file(run: Path, monkeypatch) -> None:
    """fp32 was timed in torch, or under ONNX Runtime alone, where a server takes the faster of two runtimes."""
    times = {"onnx": 5.0, "openvino": 4.0}
    seen: list[dict] = []

    def opened(file: Path, **how: object) -> dict[str, Session]:
        return dict.fromkeys(times, Session(file))

    def timed(forms: Mapping, weights: Mapping, image: tuple[int, ...], *, seconds: float) -> dict:
        seen.append({key[1]: weights[key] for key in forms if key[0][0] == EARLY})
        whole = Latency(1, 0.0, 0.0, 0.0, 0.0, 1, 1)
        slower = {EARLY: 1, STATIC: 2}
        return {k: dataclasses.replace(whole, median=slower[k[0][0]] * times[k[1]]) for k in forms}

    monkeypatch.setattr(named_ladders, "sessions_of", opened)
    monkeypatch.setattr(named_ladders, "mean_latency", timed)
    found = choose_ladder_points(Sources(run), Need(), steps=2)
    assert {c.point: c.latency for c in found.choice.points} == {STATIC: 8.0, EARLY: 4.0}
    assert seen == [{name: {0: 0.5, 1: 0.25, 2: 0.25} for name in times}]
    assert not found.in_torch
    assert not any("torch" in note for note in found.notes)

    def refused(*given: object, **more: object) -> Path:
        raise ValueError("no file")

    monkeypatch.setattr(named_ladders, "write_in", refused)
    monkeypatch.setattr(leaving, "latency", slow_by_depth)
    found = choose_ladder_points(Sources(run), Need(), steps=2)
    assert {c.point: c.latency for c in found.choice.points} == {STATIC: 10.0, EARLY: 1.75}
    assert "timed in torch, so serve the ladder with --backend torch: no file" in found.notes
    rows = [r.model_copy(update={"exit_shares": None}) for r in read_rows(run / "rows.jsonl")]
    with pytest.raises(ValueError, match="do not say which exits images take"):
        named_ladders._timed(*artifact.load_with(run), [(EARLY, "fp32")], rows)
