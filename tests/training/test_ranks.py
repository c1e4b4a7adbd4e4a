"""Ranks that differ in callbacks take the same steps, and report and continue the sums of all of them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json
import os
import signal
import sys

import torch

import rheostat
from rheostat import data, nets
from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.runtime.interrupts import Interrupted

first, steps = os.environ.get("RANK", "0") == "0", []


class Notes(rheostat.Callback):
    def on_step(self, run, values):
        steps.append(values["loss"])
        if values["step"] == 3:
            signal.raise_signal(signal.SIGINT)
        if values["step"] == 7:
            run.stop("enough")


def loss_of(rank):
    # The run is one run, whatever a function closes over on its rank.
    return lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels, reduction="none") + 0 * rank


def go():
    torch.manual_seed(0)
    model = Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("pgd-at"))
    digits = data.load("digits")[0]
    return rheostat.fit(
        model, digits.only(torch.arange(160)), digits.only(torch.arange(160, 180)), out=sys.argv[1], eps=0.5, norm="l2",
        epochs=5, batch=32, attack={"steps": 1}, lr=0.01, select={"images": 20, "steps": 1},
        device={"precision": "fp32"}, callbacks=[Notes()] if first else [], loss=loss_of(0 if first else 1),
    )


torch.set_num_threads(1)
try:
    go()
    raise SystemExit("the run was not interrupted")
except Interrupted:
    run = go()
assert run.progress.step == 7 and run.progress.stopped
if first:
    print(json.dumps([steps, [[line["loss"], line["train_robust_accuracy"]] for line in run.history]]))
"""


@pytest.mark.slow
def test_two_ranks_report_and_continue_as_one(tmp_path: Path) -> None:
    """Losses were those of the first rank's rows; a callback, or a number, of one rank alone hung or refused all."""
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["-m", "torch.distributed.run", "--master-port", port, "--nproc-per-node", "2"]
    found = []
    for name, words in (("one", []), ("two", launch)):
        command = [sys.executable, *words, str(script), str(tmp_path / name)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    (steps, epochs), (steps_of_two, epochs_of_two) = found
    assert len(steps) == 7
    assert steps_of_two == pytest.approx(steps, abs=1e-4)
    for one, two in zip(epochs, epochs_of_two, strict=True):
        assert two == pytest.approx(one, abs=1e-4)
