"""Precision as a dimension of a ladder: measured rows of files, the choice, stored points, the service."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rheostat.cli.app import main
from rheostat.deploy import precisions
from rheostat.deploy.choosing import SPLIT, Need, candidates, choose
from rheostat.deploy.judging import measure_in
from rheostat.deploy.ladders import choose_ladder
from rheostat.deploy.named_ladders import Sources, choose_ladder_points
from rheostat.deploy.onnx_session import Session
from rheostat.deploy.precisions import write_in
from rheostat.evaluation.lookup import Request
from rheostat.evaluation.options import EvaluationOptions
from rheostat.models import artifact
from rheostat.models.quantised_files import QUANTISED
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.row import Row
from rheostat.results.rows import read_rows
from rheostat.results.timings import read_timings, write_timings
from rheostat.runtime.files import read_tensors, write_tensors
from rheostat.runtime.precision import native_bf16
from rheostat.serve.backends import service
from rheostat.serve.options import Service
from support import images_for, made_row, make

WIDE, NARROW = Point(robustness=1.0, width=1.0), Point(robustness=1.0, width=0.5)


def row(point: Point, clean: int, robust: int, precision: str = "fp32", n: int = 1000) -> Row:
    bits = [torch.arange(n) < count for count in (clean, robust)]
    return made_row(*bits, split=SPLIT, at=point.numbers(), precision=precision)


ROWS = [row(WIDE, 900, 700), row(NARROW, 850, 650), row(WIDE, 895, 720, "int8"), row(NARROW, 800, 600, "int8")]
TIMES = {(WIDE, "fp32"): 10.0, (NARROW, "fp32"): 6.0, (WIDE, "int8"): 4.0, (NARROW, "int8"): 2.0}


def test_the_precisions_that_have_files_of_their_own_are_the_quantised_ones() -> None:
    assert tuple(p for p, how in precisions.SERVED.items() if how.quantised) == QUANTISED


def times_of(run: Path, rows: list[tuple[dict[str, float], str, float]]) -> Path:
    """A file of times, as `rheostat bench --out` writes it."""
    own = artifact.digest(run)
    made = [{"artifact": own, "at": at, "form": f, "p50_ms": {"1": ms, "32": 20 * ms}} for at, f, ms in rows]
    write_timings(run / "bench.jsonl", made)
    return run / "bench.jsonl"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A run's folder: the packaged model, and rows of two points in fp32 and of one of them in int8."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    folder.mkdir()
    shutil.copy(artifact.packaged()["oat-digits"], folder / "model.safetensors")
    same = ["evaluate", str(folder), "--split", SPLIT, "--threads", "1", "--at"]
    main([*same, "robustness=0.5,1"])
    main([*same, "robustness=1", "--precision", "int8"])
    return folder


def rewritten(run: Path, **fields: float) -> None:
    """Change numbers of the rows in a lower precision."""
    lines = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    changed = [{**line, **(fields if line.get("precision") != "fp32" else {})} for line in lines]
    (run / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))


@pytest.fixture
def chosen(measured: Path, tmp_path: Path, capsys) -> Path:
    """The same run with a stored ladder: safe in fp32, fast in int8."""
    run = Path(shutil.copytree(measured, tmp_path / "digits"))
    rewritten(run, robust_accuracy=0.5)  # less than in fp32, so that fp32 stays on the front
    half, whole = {"robustness": 0.5}, {"robustness": 1.0}
    forms = [(half, "ONNX Runtime", 9.0), (whole, "ONNX Runtime", 10.0), (whole, "OpenVINO fp32", 11.0)]
    file = times_of(run, [*forms, (whole, "ONNX Runtime int8", 4.0)])
    main(["choose", str(run), "--ladder", "safe,fast", "--maximise", "robust", "--costs", str(file), "--threads", "1"])
    return run


def same_graph_described(exported: Path, kept: Path, about: artifact.About) -> None:
    """An exported int8 file is the stored one, and says what is known of its point, which the stored one does not."""
    assert onnx.load(exported).graph == onnx.load(kept).graph
    own, found = Session(exported).about, about.measured["fast"]
    assert (own["name"], own["measured"], own["temperature"]) == ("fast", found, found["temperature"])
    assert own == Session(kept).about | {k: own[k] for k in ("name", "measured", "temperature", "points")}


def test_a_ladder_takes_precision_as_a_dimension() -> None:
    found = choose_ladder(ROWS, Need(), latencies=TIMES)
    steps = [(c.point["width"], c.precision) for c in found.points]
    assert steps == [(1.0, "fp32"), (1.0, "int8"), (0.5, "int8")]
    assert found.looked_at == 4
    # The floor holds in every precision.
    kept = choose_ladder(ROWS, Need(min_robust=0.62), latencies=TIMES)
    assert [(c.point["width"], c.precision) for c in kept.points] == [(1.0, "fp32"), (1.0, "int8")]
    # A single point is chosen in fp32.
    assert choose(ROWS, Need(), maximise="robust").looked_at == 2


def test_a_lower_precision_never_counts_as_more_robust_than_fp32() -> None:
    found = {(c.point, c.precision): c for c in candidates(ROWS, precisions=("fp32", "int8"))}
    full, lower = found[WIDE, "fp32"], found[WIDE, "int8"]
    assert lower.robust == full.robust == 0.7
    assert lower.robust_bound == full.robust_bound
    assert lower.clean == 0.895
    assert found[NARROW, "int8"].robust == 0.6


def test_a_lower_precision_has_the_flags_of_its_row_in_fp32_too() -> None:
    full, lower = (r.model_copy(update={"flags": [f]}) for r, f in ((ROWS[0], "zero-gradients"), (ROWS[2], "other")))
    found = {c.precision: c.flags for c in candidates([full, lower], precisions=("fp32", "int8"))}
    assert found == {"fp32": ("zero-gradients",), "int8": ("other", "zero-gradients")}


def test_a_row_of_a_file_has_the_flags_of_training(tmp_path: Path) -> None:
    model, about = artifact.load_with("oat-digits")
    flagged = dataclasses.replace(about, provenance={**about.provenance, "flags": ["robust-overfitting"]})
    artifact.save(tmp_path / "model.safetensors", model, flagged)
    request = Request(which=str(tmp_path), at="robustness=1", examples=10)
    (row,) = measure_in("int8", request, EvaluationOptions(split=SPLIT))
    assert row.flags == ["robust-overfitting"]


def test_int8_at_a_point_with_live_exits_is_refused_by_its_name(tmp_path: Path) -> None:
    model = make("rdi", "resnet-8")
    with pytest.raises(ValueError, match=r"exit=1.* has live exits.*: int8 needs exit=0"):
        write_in("int8", model, artifact.About(), tmp_path / "x.onnx", at=Point(exit=1.0), images=images_for(model))


def test_what_was_not_measured_does_not_take_part() -> None:
    alone = [*ROWS[:2], ROWS[2]]
    assert {(c.point, c.precision) for c in candidates(alone, precisions=("fp32", "int8", "bf16"))} == {
        (WIDE, "fp32"),
        (NARROW, "fp32"),
        (WIDE, "int8"),
    }
    without_full = candidates([ROWS[0], ROWS[3]], precisions=("fp32", "int8"))
    assert [(c.point, c.precision) for c in without_full] == [(WIDE, "fp32")]
    # Times alone admit nothing.
    found = choose_ladder(ROWS[:2], Need(), latencies=TIMES)
    assert [c.precision for c in found.points] == ["fp32", "fp32"]
    with pytest.raises(ValueError, match=r"width=0\.5 in int8 has none"):
        choose_ladder(ROWS, Need(), latencies={k: v for k, v in TIMES.items() if k != (NARROW, "int8")})


def test_rows_of_a_file_stand_beside_those_of_the_model(measured: Path, capsys) -> None:
    rows = read_rows(measured / "rows.jsonl")
    (lower,) = (r for r in rows if r.precision == "int8")
    full = next(r for r in rows if r.at == lower.at and r.precision == "fp32" and r.attack.name == "worst")
    again = lower.model_copy(update={"precision": "fp32", "attack": full.attack})
    assert lower.model_copy(update={"attack": full.attack}).identity != full.identity == again.identity
    assert lower.attack.names == ("pgd20 of fp32", "pgd20-every-step of fp32", "square200")
    assert (lower.n, lower.split, lower.artifact) == (full.n, SPLIT, full.artifact)
    assert lower.robust_accuracy < lower.clean_accuracy
    before = (measured / "rows.jsonl").read_bytes()
    main(["evaluate", str(measured), "--split", SPLIT, "--at", "robustness=1", "--precision", "int8", "--threads", "1"])
    assert "int8" in capsys.readouterr().out
    assert (measured / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("precision", "request_", "options", "message"),
    [
        ("int4", {}, {}, "no precision 'int4'; did you mean 'int8'"),
        ("int8", {"tier": "standard"}, {"warm": True}, "omit --tier, --warm"),
        ("int8", {"device": "cuda"}, {}, "judges a file on the CPU.*omit --device"),
        ("int8", {"which": "torch.nn:Identity"}, {}, "given the factory"),
    ],
)
def test_a_file_is_judged_by_fixed_attacks(precision: str, request_: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_in(precision, Request(**{"which": "oat-digits", **request_}), EvaluationOptions(**options))


def test_several_ranks_do_not_judge_a_file(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="given 2 ranks; omit torchrun"):
        measure_in("int8", Request(which="oat-digits"), EvaluationOptions())


def test_fresh_drops_the_rows_of_a_model_that_was_there_before(measured: Path, tmp_path: Path) -> None:
    """They stayed, and the next evaluation without --fresh refused them."""
    run = Path(shutil.copytree(measured, tmp_path / "digits"))
    lines = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    (run / "rows.jsonl").write_text("".join(json.dumps({**line, "artifact": "0" * 16}) + "\n" for line in lines))
    request = Request(which=str(run), at="robustness=1", examples=20)
    with pytest.raises(ValueError, match="--fresh drops them"):
        measure_in("int8", request, EvaluationOptions(split=SPLIT))
    made = measure_in("int8", request, EvaluationOptions(split=SPLIT, fresh=True))
    assert read_rows(run / "rows.jsonl") == made == measure_in("int8", request, EvaluationOptions(split=SPLIT))


def test_the_ladder_is_stored_exported_and_served_in_its_precisions(chosen: Path, tmp_path: Path, capsys) -> None:
    text = " ".join(capsys.readouterr().out.split())
    assert "step fast: robustness=1 in int8" in text
    for precision in ("bf16", "int8-openvino"):
        problem = precisions.lacking(precision) or "SA and RA were not measured in it"
        assert f"{precision} is left out: {problem}" in text
    model, about = artifact.load_with(chosen)
    assert about.measured["fast"]["precision"] == "int8"
    assert "precision" not in about.measured["safe"]
    kept = chosen / "model.fast.int8.onnx"
    main(["export", str(chosen), "--at", "fast", "--out", str(tmp_path / "fast.onnx")])
    same_graph_described(tmp_path / "fast.onnx", kept, about)
    capsys.readouterr()
    main(["export", str(chosen), "--at", "fast", "--to", "torch", "--out", str(tmp_path / "fast.pt2")])
    assert "this file is in fp32 and states none of them" in " ".join(capsys.readouterr().out.split())

    served = service(str(chosen), backend="onnx", threads=1, most=4)
    x = np.random.default_rng(0).random((3, *model.net.image)).astype(np.float32)
    for name in ("safe", "fast"):
        logits = Session(kept)(x) if name == "fast" else model.at("safe")(torch.from_numpy(x)).detach().numpy()
        expected = torch.from_numpy(logits / about.measured[name]["temperature"]).softmax(1).numpy()
        assert np.allclose(served.runs[name](x), expected, atol=1e-5)
    assert not np.allclose(served.runs["safe"](x), served.runs["fast"](x), atol=1e-5)
    assert served.measured["fast"]["precision"] == "int8"
    whole = service(str(chosen), backend="onnx", precision="fp32", threads=1, most=4)
    plain = model.at("fast").probabilities(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(whole.runs["fast"](x), plain, atol=1e-4)


def test_times_of_bench_are_read_by_precision(chosen: Path) -> None:
    served = service(str(chosen), backend="onnx", threads=1, costs=chosen / "bench.jsonl")
    assert served.costs["fast"](1) == pytest.approx(0.004)
    assert served.costs["safe"](1) == pytest.approx(0.010)
    times_of(chosen, [({"robustness": v}, "ONNX Runtime", 10.0) for v in (0.5, 1.0)])
    with pytest.raises(ValueError, match="no times of 'fast' as ONNX Runtime int8"):
        service(str(chosen), backend="onnx", threads=1, costs=chosen / "bench.jsonl")
    with pytest.raises(ValueError, match="as ONNX Runtime int8; bench that point too"):
        choose_ladder_points(Sources(str(chosen), costs=chosen / "bench.jsonl"), Need(), steps=2)


def test_an_int8_file_that_is_missing_or_foreign_is_refused(chosen: Path) -> None:
    kept = chosen / "model.fast.int8.onnx"
    content = kept.read_bytes()
    kept.unlink()
    with pytest.raises(ValueError, match=r"its file .*model\.fast\.int8\.onnx is missing"):
        service(str(chosen), backend="torch", threads=1)
    main(["export", "oat-digits", "--at", "robustness=1", "--out", str(kept)])
    with pytest.raises(ValueError, match="is not the int8 file of 'fast'"):
        service(str(chosen), backend="torch", threads=1)
    kept.write_bytes(content)
    artifact.name_point(chosen, "fast", Point(robustness=0.5), {"precision": "int8"})
    with pytest.raises(ValueError, match="is not the int8 file of 'fast'"):
        service(str(chosen), backend="torch", threads=1)


def test_files_of_before_are_served_in_fp32_and_unknown_precisions_are_refused(chosen: Path) -> None:
    file = chosen / "model.safetensors"
    tensors, found = read_tensors(file)
    del found["measured"]["fast"]["precision"]
    write_tensors(file, tensors, found)
    model, _ = artifact.load_with(chosen)
    x = np.random.default_rng(0).random((3, *model.net.image)).astype(np.float32)
    served = service(str(chosen), backend="torch", most=4)
    plain = model.at("fast").probabilities(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(served.runs["fast"](x), plain, atol=1e-5)
    found["measured"]["fast"]["precision"] = "int4"
    write_tensors(file, tensors, found)
    with pytest.raises(
        ValueError, match=r"measured\.fast\.precision: Input should be 'fp32', 'bf16', 'int8' or 'int8-openvino'"
    ):
        artifact.load_with(chosen)


def test_an_int8_file_that_is_less_accurate_here_is_not_stored(measured: Path, tmp_path: Path, capsys) -> None:
    run = Path(shutil.copytree(measured, tmp_path / "digits"))
    rewritten(run, clean_accuracy=0.9, robust_accuracy=0.5)
    forms = [({"robustness": v}, "ONNX Runtime", 10.0) for v in (0.5, 1.0)]
    file = times_of(run, [*forms, ({"robustness": 1.0}, "ONNX Runtime int8", 4.0)])
    for names, message in (("safe,fast", "this machine runs it differently"), ("safe,Fast", "given 'Fast'")):
        with pytest.raises(SystemExit):
            main(["choose", str(run), "--ladder", names, "--maximise", "robust", "--costs", str(file)])
        assert message in " ".join(capsys.readouterr().err.split())
        assert not list(run.glob("*.int8.onnx"))
        assert artifact.load(run).points == {}, "the first step of a ladder was stored without the others"


def test_a_precision_that_this_machine_lacks(chosen: Path, monkeypatch) -> None:
    monkeypatch.setattr(precisions.importlib.util, "find_spec", lambda name: None)
    for precision in ("bf16", "int8-openvino"):
        assert "pip install 'rheostat[openvino]'" in precisions.lacking(precision)
    assert not precisions.lacking("int8")
    for precision in ("bf16", "int8-openvino"):
        artifact.name_point(chosen, "fast", Point(robustness=1.0), {"precision": precision})
        message = f"'fast' was chosen in {precision}, which cannot run here: it needs OpenVINO"
        with pytest.raises(ValueError, match=message):
            service(str(chosen), backend="torch", most=4)
    assert set(service(str(chosen), backend="torch", precision="fp32", most=4).runs) == {"safe", "fast"}


def served_as_fast(run: Path, form: str, precision: str) -> tuple[Tunable, artifact.About, Service, np.ndarray]:
    """Choose a ladder where `form` is fastest: the model, its description, the service of the ladder, and images."""
    forms = [({"robustness": v}, "ONNX Runtime", 10.0) for v in (0.5, 1.0)]
    lower = [({"robustness": 1.0}, f, ms) for f, ms in ((form, 4.0), ("ONNX Runtime int8", 9.5))]
    file = times_of(run, [*forms, *lower])
    main(["choose", str(run), "--ladder", "safe,fast", "--maximise", "robust", "--costs", str(file), "--threads", "1"])
    model, about = artifact.load_with(run)
    assert about.measured["fast"]["precision"] == precision
    served = service(str(run), backend="onnx", threads=1, costs=file)
    assert served.costs["fast"](1) == pytest.approx(0.004)
    x = np.random.default_rng(0).random((3, *model.net.image)).astype(np.float32)
    return model, about, served, x


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None or not native_bf16(torch.device("cpu")),
    reason="needs OpenVINO and a chip that multiplies bf16",
)
def test_a_point_in_bf16_is_measured_and_served_in_bf16(measured: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(measured, tmp_path / "digits"))
    main(["evaluate", str(run), "--split", SPLIT, "--at", "robustness=1", "--precision", "bf16", "--threads", "1"])
    rewritten(run, robust_accuracy=0.5)
    model, _, served, x = served_as_fast(run, "OpenVINO bf16", "bf16")
    plain = model.at("fast").probabilities(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(served.runs["fast"](x), plain, atol=0.05)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
def test_an_int8_file_is_measured_and_served_under_openvino(measured: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(measured, tmp_path / "digits"))
    same = ["evaluate", str(run), "--split", SPLIT, "--at", "robustness=1", "--threads", "1"]
    main([*same, "--precision", "int8-openvino"])
    found = {r.precision: r for r in read_rows(run / "rows.jsonl") if r.attack.name == "worst"}
    assert found["int8"].identity != found["int8-openvino"].identity
    rewritten(run, robust_accuracy=0.5)
    main(
        ["bench", str(run), "--at", "robustness=0.5,1", "--seconds", "0.05", "--int8", "--out", str(run / "own.jsonl")]
    )
    assert {"ONNX Runtime int8", "OpenVINO int8"} <= {r["form"] for r in read_timings(run / "own.jsonl")}
    _, about, served, x = served_as_fast(run, "OpenVINO int8", "int8-openvino")
    kept = run / "model.fast.int8.onnx"
    logits = Session(kept, runtime="openvino")(x)
    assert not np.allclose(logits, Session(kept)(x), atol=1e-4)
    expected = torch.from_numpy(logits / about.measured["fast"]["temperature"]).softmax(1).numpy()
    assert np.allclose(served.runs["fast"](x), expected, atol=1e-5)
    main(["export", str(run), "--at", "fast", "--out", str(tmp_path / "fast.onnx")])
    same_graph_described(tmp_path / "fast.onnx", kept, about)
