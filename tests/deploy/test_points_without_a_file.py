"""Points that take two passes have no folded file: they are served by torch, and the messages say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rheostat.deploy import named_ladders
from rheostat.deploy.choosing import SPLIT, Need
from rheostat.deploy.named_ladders import Sources, choose_ladder_points, serve_command
from rheostat.models import artifact
from rheostat.points.point import Point
from rheostat.results.row import Row
from rheostat.results.rows import add_rows
from rheostat.results.timings import write_timings
from rheostat.serve.backends import service
from support import made_row, make

ENDS, MIDDLE = (Point(robustness=0.0), Point(robustness=1.0)), Point(robustness=0.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder: an untrained mixture of two networks, with a point of one pass and one of two."""
    model = make("mixing", "small_cnn").eval()
    model.points = {"mid": model.complete(MIDDLE), "safe": model.complete(ENDS[1])}
    artifact.save(tmp_path / "model.safetensors", model)
    return tmp_path


def rows_of(run: Path) -> list[Row]:
    """Rows of the ends and of the middle, less accurate and more robust from one to the next."""
    points = (ENDS[0], MIDDLE, ENDS[1])
    made = []
    for place, point in enumerate(points):
        bits = [torch.arange(1000) < count for count in (900 - 50 * place, 300 + 100 * place)]
        made.append(made_row(*bits, split=SPLIT, at=point.numbers(), artifact=artifact.digest(run)))
    return made


def test_a_server_without_torch_names_it_and_serves_a_ladder_without_such_a_point(run: Path) -> None:
    with pytest.raises(ValueError, match=r"'mid': robustness=0\.5 is not one fixed network.* --backend torch"):
        service(str(run), backend="onnx", most=2)
    with pytest.raises(ValueError, match="'mid': "):
        service(str(run), backend="onnx", most=2, needed=("safe", "mid"))
    served = service(str(run), backend="onnx", most=2, needed=("safe",))
    assert (set(served.runs), set(served.points), set(served.left_out)) == ({"safe"}, {"safe"}, {"mid"})
    assert set(service(str(run), backend="torch", most=2).runs) == {"safe", "mid"}


def test_a_file_of_times_needs_those_of_the_ladder_alone(run: Path) -> None:
    own = {"artifact": artifact.digest(run), "form": "folded", "at": ENDS[1].numbers(), "p50_ms": {"1": 5.0}}
    write_timings(run / "bench.jsonl", [own])
    served = service(str(run), backend="torch", most=2, costs=run / "bench.jsonl", needed=("safe",))
    assert (set(served.runs), set(served.costs)) == ({"safe"}, {"safe"})
    assert "has no times of 'mid'" in served.left_out["mid"]
    with pytest.raises(ValueError, match="has no times of 'mid'"):
        service(str(run), backend="torch", most=2, costs=run / "bench.jsonl")


def test_a_ladder_by_times_of_files_leaves_such_a_point_out(run: Path) -> None:
    add_rows(run / "rows.jsonl", rows_of(run))
    own = {"artifact": artifact.digest(run), "form": "ONNX Runtime"}
    times = [{**own, "at": p.numbers(), "p50_ms": {"1": ms}} for p, ms in zip(ENDS, (5.0, 9.0), strict=True)]
    write_timings(run / "bench.jsonl", times)
    sources = Sources(run, costs=run / "bench.jsonl")
    found = choose_ladder_points(sources, Need(), maximise="robust", steps=2)
    assert [c.point for c in found.choice.points] == [ENDS[1], ENDS[0]]
    said = "fp32 is left out at robustness=0.5: no one file gives it; only serve --backend torch serves it"
    assert said in found.notes
    assert serve_command(sources, found, ["safe", "fast"]) == f"rheostat serve {run} --ladder safe,fast"


def test_a_ladder_by_times_of_files_without_any_such_file_says_why(run: Path) -> None:
    add_rows(run / "rows.jsonl", [r for r in rows_of(run) if r.at == MIDDLE.numbers()])
    write_timings(run / "bench.jsonl", [])
    with pytest.raises(ValueError, match=r"fp32 is left out at robustness=0\.5: no one file gives it"):
        choose_ladder_points(Sources(run, costs=run / "bench.jsonl"), Need())


def test_the_command_that_serves_such_a_ladder_names_torch(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rows(run / "rows.jsonl", rows_of(run))
    times = {ENDS[0]: 4.0, MIDDLE: 6.0, ENDS[1]: 9.0}
    monkeypatch.setattr(named_ladders, "latencies", lambda model, points, shares: times)
    found = choose_ladder_points(Sources(run), Need(), maximise="robust")
    assert MIDDLE in [c.point for c in found.choice.points]
    assert any(note.startswith("timed in torch, so serve the ladder with --backend torch: ") for note in found.notes)
    command = serve_command(Sources(run, net="shop.nets:make"), found, ["a", "b", "c"])
    assert command.endswith(" --ladder a,b,c --net shop.nets:make --backend torch")
