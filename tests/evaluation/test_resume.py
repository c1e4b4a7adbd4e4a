"""An evaluation that is killed, sharded, warm-started or pointed at something else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rheostat
from rheostat.attacks import named
from rheostat.data import Dataset, subset
from rheostat.evaluation import evaluator
from rheostat.evaluation.attacked import outcome
from rheostat.evaluation.chunks import Task, measured
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models import artifact
from rheostat.points.grid import parse_grid
from rheostat.points.point import Point
from rheostat.results.bits import read_bits
from rheostat.results.rows import read_rows
from rheostat.runtime.interrupts import Interrupted

EPS = 0.2
ASIDE = ("seconds", "hardware", "bits", "examples")
COMMAND = [
    sys.executable,
    "-m",
    "rheostat",
    "evaluate",
    "oat-digits",
    "--threads",
    "1",
    "--transfer",
    "--at",
    "robustness=0,0.5,1",
    "--attack",
    "pgd20,fgsm",
]


@pytest.fixture(scope="module")
def sample(digits) -> Dataset:
    return subset(digits[1], 230)


def plain(path: Path) -> list[dict]:
    return [{k: v for k, v in r.plain().items() if k not in ASIDE} for r in read_rows(path)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "rows.jsonl"
    subprocess.run([*COMMAND, "--out", str(out)], check=True, env=environment(), capture_output=True)
    return out


@pytest.mark.slow
def test_killed_at_random_moments(undisturbed: Path, tmp_path: Path) -> None:
    out, moments = tmp_path / "rows.jsonl", random.Random(0)
    started, seen, killed = time.monotonic(), 0, 0
    for _ in range(5):
        process = subprocess.Popen(
            [*COMMAND, "--out", str(out)], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Wait for a chunk more than the last time, then kill somewhere in the next.
        while process.poll() is None and len(list(tmp_path.glob("unfinished/*/chunk-*"))) <= seen:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen = max(seen, len(list(tmp_path.glob("unfinished/*/chunk-*"))))
        killed += process.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 120
    subprocess.run([*COMMAND, "--out", str(out)], check=True, env=environment(), capture_output=True)
    assert plain(out) == plain(undisturbed)
    ours, theirs = read_bits(out), read_bits(undisturbed)
    for row in read_rows(out):
        assert all(map(torch.equal, ours.of(row), theirs.of(row)))
    assert not (tmp_path / "unfinished").exists()
    assert killed >= 3


@pytest.mark.slow
def test_two_ranks_give_the_rows_of_one(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *COMMAND[1:],
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, env=environment(), capture_output=True, timeout=240)
    assert plain(out) == plain(undisturbed)


def test_a_finished_chunk_is_not_measured_again(model, sample, tmp_path: Path, monkeypatch) -> None:
    points, attacks = parse_grid("robustness=0,1"), [named("pgd5", eps=EPS)]
    calls, stop = [], 2

    def counted(task, images, labels, number):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(number)
        return measured(task, images, labels, number)

    monkeypatch.setattr(evaluator, "measured", counted)
    out = tmp_path / "rows.jsonl"
    with pytest.raises(
        Interrupted, match=r"stopped after 2 of 3 chunks, which are kept in .*the same command continues"
    ):
        evaluate(Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=out))
    assert not out.exists()
    stop = 100
    rows = evaluate(Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=out))
    assert calls == [0, 1, 2]
    again = evaluate(Target(model, "x"), points, attacks, sample)
    assert [r.robust_accuracy for r in rows] == [r.robust_accuracy for r in again]


def test_another_model_or_other_data_is_refused(model, sample, tmp_path: Path, monkeypatch) -> None:
    out, attacks = tmp_path / "rows.jsonl", [named("fgsm", eps=EPS)]
    evaluate(Target(model, "x"), [Point(robustness=1.0)], attacks, sample, options=EvaluationOptions(out=out))
    other = rheostat.load("oat-digits")
    with torch.no_grad():
        next(other.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="measured on another model"):
        evaluate(Target(other, "x"), [Point(robustness=0.0)], attacks, sample, options=EvaluationOptions(out=out))
    assert evaluate(Target(other, "y"), [Point(robustness=0.0)], attacks, sample, options=EvaluationOptions(out=out))
    rows = evaluate(
        Target(other, "x"), [Point(robustness=0.0)], attacks, sample, options=EvaluationOptions(out=out, fresh=True)
    )
    assert [r.artifact for r in read_rows(out) if r.run == "x"] == [rows[0].artifact] * 2

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluator, "measured", killed)
    with pytest.raises(Interrupted):
        evaluate(Target(model, "z"), [Point(robustness=1.0)], attacks, sample, options=EvaluationOptions(out=out))
    monkeypatch.undo()
    # An evaluation that was killed hinders no other: neither of other data, nor of another model.
    changed = sample.only(torch.arange(len(sample)).flip(0))
    assert evaluate(Target(model, "z"), [Point(robustness=1.0)], attacks, changed, options=EvaluationOptions(out=out))


def test_fresh_measures_again_and_drops_nothing_else(model, sample, tmp_path: Path, monkeypatch) -> None:
    out, fgsm = tmp_path / "rows.jsonl", [named("fgsm", eps=EPS)]
    options = EvaluationOptions(out=out)
    seen: list[int] = []
    most = 100

    def counted(task, images, labels, number):
        if len(seen) == most:
            raise KeyboardInterrupt
        seen.append(number)
        return measured(task, images, labels, number)

    monkeypatch.setattr(evaluator, "measured", counted)
    for position in (0, 1):
        evaluate(Target(model, "x"), f"robustness={position}", fgsm, sample, options=options)
    # Another evaluation is killed after its first chunk: its work stays, whatever --fresh does beside it.
    most = len(seen) + 1
    with pytest.raises(Interrupted):
        evaluate(Target(model, "x"), "robustness=0.5", fgsm, sample, options=options)
    most = 100
    evaluate(Target(model, "x"), "robustness=1", fgsm, sample, options=replace(options, fresh=True))
    assert seen == [0, 1, 2, 0, 1, 2, 0, 0, 1, 2]
    assert sorted(r.at["robustness"] for r in read_rows(out)) == [0, 0, 1, 1]
    evaluate(Target(model, "x"), "robustness=0.5", fgsm, sample, options=options)
    assert seen[10:] == [1, 2]
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_what_is_kept_and_exits_130(tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "rows.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "--out", str(out)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and every command below it would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(tmp_path.glob("unfinished/*/chunk-*")):
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "chunks, which are kept in" in errors
    assert "the same command continues" in errors


def test_the_same_points_over_other_data_of_one_name_are_refused(model, sample, tmp_path: Path) -> None:
    out, attacks = tmp_path / "rows.jsonl", [named("fgsm", eps=EPS)]
    evaluate(Target(model, "x"), [Point(robustness=1.0)], attacks, sample, options=EvaluationOptions(out=out))
    changed = Dataset(sample.name, sample.images.flip(3), sample.labels, sample.classes, sample.split)
    with pytest.raises(ValueError, match="measured on other data"):
        evaluate(Target(model, "x"), [Point(robustness=1.0)], attacks, changed, options=EvaluationOptions(out=out))


def test_a_warm_start_is_never_weaker_and_says_what_it_saved(model, sample, tmp_path: Path) -> None:
    points, attacks = parse_grid("robustness=0.2,0.5,0.6,1"), [named("pgd20", eps=EPS)]
    cold = evaluate(Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=tmp_path / "cold.jsonl"))
    warm = evaluate(
        Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=tmp_path / "warm.jsonl", warm=True)
    )
    assert [r.attack.name for r in warm] == ["warm", "pgd20", "worst"] * 4
    assert [r.attack.lent for r in warm[::3]][2] == ["robustness=0.2", "robustness=0.5"]
    for a, b in zip(cold[1::2], warm[2::3], strict=True):
        first, second = read_bits(tmp_path / "cold.jsonl").of(a), read_bits(tmp_path / "warm.jsonl").of(b)
        assert torch.equal(first[0], second[0])
        # An image that the cold attack fells falls here too: by what was lent, or by the same attack.
        assert not bool((second[1] & ~first[1]).any())
    assert warm[0].robust_accuracy == warm[0].clean_accuracy
    assert warm[9].robust_accuracy < warm[9].clean_accuracy - 0.05
    assert sum(r.queries for r in warm[2::3]) < sum(r.queries for r in cold[1::2])


def test_points_that_share_a_batch_are_measured_as_by_themselves(model, sample) -> None:
    points = parse_grid("robustness=0,0.3,1")
    rows = evaluate(Target(model, "x"), points, [named("pgd10", eps=EPS)], sample)
    for point, row in zip(points, rows[1::2], strict=True):
        alone = outcome(model, point, sample, named("pgd10", eps=EPS))
        # Equal seeds; sums in batches of another size may round otherwise.
        assert abs(float(alone.robust.double().mean()) - row.robust_accuracy) <= 2 / len(sample)
        assert float(alone.clean.double().mean()) == row.clean_accuracy
    task = Task(model, tuple(points), (named("pgd10", eps=EPS),))
    assert list(task.packs(torch.zeros(100, 1, 8, 8))) == [[0, 1, 2]]
    assert list(task.packs(torch.zeros(100, 3, 64, 64))) == [[0], [1], [2]]
    square = Task(model, tuple(points), (named("square50", eps=EPS),))
    assert list(square.packs(torch.zeros(100, 1, 8, 8))) == [[0], [1], [2]]


def test_what_the_attacker_knows(model, sample, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    points, attacks = parse_grid("robustness=0,0.5,1"), [named("pgd20", eps=EPS)]
    rows = evaluate(Target(model, "x"), points, attacks, sample, options=EvaluationOptions(out=out, transfer=True))
    known = {r.at["robustness"]: r for r in rows if r.attack.name == "worst"}
    transfer = [r for r in rows if r.knowledge == "transfer"]
    unknown = {r.at["robustness"]: r for r in rows if r.knowledge == "unknown"}
    (chosen,) = [r for r in rows if r.knowledge == "chosen"]
    assert len(transfer) == 9
    assert len(unknown) == 3
    for row in transfer:
        at, made = row.at["robustness"], row.attack.made_at["robustness"]
        if at == made:
            assert row.robust_accuracy == known[at].robust_accuracy
        else:
            assert row.robust_accuracy > known[at].robust_accuracy - (0.06 if at == 0.5 else 0.02)
    # At the ends who knows the point does no less harm than who does not. Between them PGD-20 alone is
    # weak on this model, and the mean over points is a better guide: the flag says so.
    for end in (0.0, 1.0):
        assert unknown[end].robust_accuracy >= known[end].robust_accuracy - 0.06
    assert unknown[0.5].robust_accuracy < known[0.5].robust_accuracy - 0.05
    assert "transfer-beats-known" in known[0.5].flags
    assert chosen.robust_accuracy <= min(r.robust_accuracy for r in known.values())
    assert json.dumps([r.plain() for r in rows])
    assert {r.knowledge for r in read_rows(out)} == {"known", "transfer", "unknown", "chosen"}


def test_a_randomised_point_takes_no_warm_start(sample, tmp_path: Path) -> None:
    from rheostat.methods.composition import compose
    from rheostat.nets import resnet

    torch.manual_seed(0)
    noisy = rheostat.Tunable(resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("float", draw="sampled"))
    path = artifact.save(tmp_path / "m.safetensors", noisy)
    with pytest.raises(ValueError, match="draw no noise"):
        evaluate(
            Target(artifact.load(path), "x"),
            [Point(robustness=1.0)],
            [named("fgsm", eps=EPS)],
            sample,
            options=EvaluationOptions(warm=True),
        )
