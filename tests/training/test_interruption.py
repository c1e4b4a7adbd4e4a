"""Ctrl-C: what is kept is said, the exit code is 130, and ranks stop together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rheostat.cli.app import main
from rheostat.runtime.files import read_tensors
from rheostat.training.loop import train
from rheostat.training.recipe import load_recipe

SETS = (
    "calibrate_dial=false",
    "select.images=20",
    "select.steps=1",
    "attack.steps=2",
    "train.epochs=60",
    "train.checkpoint_seconds=0",
)


def command(out: Path) -> list[str]:
    sets = [part for change in SETS for part in ("--set", change)]
    return [sys.executable, "-m", "rheostat", "train", "oat-digits", "--out", str(out), "--threads", "1", *sets]


def until(path: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while not path.is_file() and time.monotonic() < deadline:
        assert all(p.poll() is None for p in processes), [p.communicate() for p in processes if p.poll() is not None]
        time.sleep(0.05)


@pytest.mark.slow
def test_one_rank_that_is_interrupted_stops_both(tmp_path: Path) -> None:
    """Each for itself, one would stop while the other waits in a collective for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            command(tmp_path),
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        until(tmp_path / "checkpoint.safetensors", processes)
        processes[1].send_signal(signal.SIGINT)
        said = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [130, 130], said
    assert all("stopped after step" in text and "the same command continues" in text for text in said)
    _, about = read_tensors(tmp_path / "checkpoint.safetensors")
    step = about["progress"]["step"]
    assert step > 0
    assert f"stopped after step {step} of" in said[0]


@pytest.mark.parametrize(
    ("room", "function", "arguments"),
    [
        ("rheostat.evaluation.lookup", "measure", ["evaluate", "oat-digits"]),
        ("rheostat.deploy.named_points", "choose_point", ["choose", "oat-digits"]),
    ],
)
def test_ctrl_c_is_exit_130_with_a_line_on_what_is_kept(
    room: str, function: str, arguments: list[str], monkeypatch, capsys
) -> None:
    """It was exit 0 without a word, so that `evaluate && choose` went on."""

    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{room}.{function}", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert "stopped" in said
    assert "kept" in said


def test_threads_are_set_by_the_command_line_alone(tmp_path: Path, monkeypatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    small = ["select.images=5", "select.steps=1", "attack.steps=1", "train.max_steps=1", "calibrate_dial=false"]
    train(load_recipe("oat-digits", changes=[*small, "device.threads=3"]), out=tmp_path / "a")
    assert counts == []
    sets = [part for change in [*small, "device.threads=3"] for part in ("--set", change)]
    main(["train", "oat-digits", "--out", str(tmp_path / "b"), *sets])
    main(["train", "oat-digits", "--out", str(tmp_path / "b"), *sets, "--threads", "2"])
    assert counts == [3, 2]
