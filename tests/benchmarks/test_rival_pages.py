"""The verdict on rivals: from rows that the queue's own entries ask for, as a mean over the seeds that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rheostat.points.grid import parse_grid
from rheostat.training.queue import read_queue

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
N = 300


@pytest.fixture(scope="module", autouse=True)
def pages():
    sys.path.insert(0, str(BENCHMARKS / "pages"))
    yield
    sys.path.remove(str(BENCHMARKS / "pages"))


def dial(run: str, gain: float) -> list[dict[str, Any]]:
    """Rows of a run, made from what the queue asks for: SA falls along t, and RA rises by more with a gain."""
    (entry,) = [r for r in read_queue(BENCHMARKS / "queues" / "rivals.toml") if r.name == run]
    points = [p.numbers() for p in parse_grid(entry.evaluate[0]["at"])]
    common = {"run": run, "n": N, "tier": "quick", "rule": None, "split": "test", "knowledge": "known", "params": 9}
    return [
        common
        | {"at": at, "macs": {"mean": 1e6}, "attack": {"name": "worst"}, "cumulative": False}
        | {"clean_accuracy": 0.9 - 0.1 * at["robustness"], "robust_accuracy": (0.4 + gain) * at["robustness"]}
        for at in points
    ]


def bits(_: Path, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.arange(N)
    return places < N * row["clean_accuracy"], places < N * row["robust_accuracy"]


def test_a_rival_that_is_better_is_named_with_its_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    import verdict

    rows = []
    for seed in ("", "-s1"):
        rows += dial(f"rival-fmnist-dual{seed}", 0.0) + dial(f"rival-fmnist-line{seed}", 0.2)
        one = {"run": f"rival-fmnist-pgd-at-1{seed}", "at": {}, "clean_accuracy": 0.8, "robust_accuracy": 0.4}
        rows.append(dial("rival-fmnist-dual", 0.0)[0] | one)
    rows += dial("rival-fmnist-oat", 0.0)
    monkeypatch.setattr(verdict, "read_bits", bits)
    found = verdict.lines(rows, Path(), {"line": "line", "oat": "OAT", "dual": "dual", "lora": "LoRA"})
    assert list(found) == ["Fashion-MNIST"]
    assert [(line.name, line.seeds) for line in found["Fashion-MNIST"]] == [("line", 2), ("OAT", 1)]
    (said,) = verdict.sentences(found)
    assert said.startswith("Fashion-MNIST: significantly better than `dual`: line (+")
    assert "not significantly different: OAT; significantly worse: none." in said
    text = verdict.section(found)
    assert "| Fashion-MNIST | line | 2 | +" in text
    assert "not corrected for the number of comparisons" in text
