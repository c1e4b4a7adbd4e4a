"""The command line as a newcomer meets it: help, runs on real input, and mistakes in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pooch
import pytest

import rheostat
from rheostat.cli.app import main
from rheostat.results.rows import read_rows

SMALL = [
    "--set",
    "train.epochs=1",
    "--set",
    "calibrate_dial=false",
    "--set",
    "select.images=40",
    "--set",
    "select.steps=2",
    "--threads",
    "1",
]


def offline(*_args: object, **_options: object) -> None:
    raise OSError("no network")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, output, errors) of a call in this process."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(capsys) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in ("demo", "train", "evaluate", "report", "compare", "recipes", "info"):
        assert command in out
        assert call(capsys, command, "--help")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "trian"),
        (["train", "oat-digit"], "did you mean 'oat-digits'"),
        (["train", "oat-digits", "--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["train", "oat-digits", "--set", "device.name=gpu"], "no device 'gpu'"),
        (["train", "oat-fashion", "--data-dir", "."], "fashion-mnist"),
        (["evaluate", "oat-digit"], "did you mean 'oat-digits'"),
        (["evaluate", "oat-digits", "--at", "robustness=2"], "from 0 to 1, given 2"),
        (["evaluate", "oat-digits", "--at", "robustnes=1"], "did you mean 'robustness'"),
        (["evaluate", "oat-digits", "--attack", "pgb20"], "no attack 'pgb20'"),
        (["evaluate", "oat-digits", "--eps", "a"], "not a number"),
        (["evaluate", "oat-digits", "--between", "at-1"], "at-0"),
        (["evaluate", "oat-digits", "--split", "tset"], "did you mean 'test'?"),
        (["evaluate", "torch.nn:Linear"], "Linear"),
        (["report", "nowhere"], "no rows in nowhere"),
        (["info", "nothing"], "no file, run or packaged model"),
        (["info", __file__], "not a complete Rheostat file"),
        (["recipes", "oat-digit"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(capsys, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RHEOSTAT_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", offline)
    (tmp_path / "fashion-mnist").mkdir()
    code, _, err = call(capsys, *arguments)
    assert code == 2, err
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err


def test_train_evaluate_report_info_on_digits(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "train", "oat-digits", "--out", "run", *SMALL)[0] == 0
    for _ in range(2):  # a finished evaluation is not repeated
        code, out, _ = call(
            capsys, "evaluate", "run", "--at", "robustness=0,1", "--attack", "fgsm,pgd5", "--examples", "60"
        )
        assert code == 0
        assert "[" in out
    assert len(read_rows("run/rows.jsonl")) == 6
    code, out, _ = call(capsys, "report", "run")
    assert code == 0
    assert Path("run/report.html").stat().st_size > 5000
    code, out, _ = call(capsys, "info", "run")
    assert "Stack(Dual(" in out
    assert "robustness" in out
    assert call(capsys, "recipes")[0] == 0
    assert "paper = " in call(capsys, "recipes", "dual-fashion")[1]
    # The same call again changes nothing: the run is finished.
    before = Path("run/model.safetensors").read_bytes()
    assert call(capsys, "train", "oat-digits", "--out", "run", *SMALL)[0] == 0
    assert Path("run/model.safetensors").read_bytes() == before


def test_ctrl_c_leaves_a_run_that_continues(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rheostat",
        "train",
        "oat-digits",
        "--out",
        str(tmp_path / "r"),
        "--set",
        "train.checkpoint_seconds=0",
        *SMALL,
        "--set",
        "train.epochs=30",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "r" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_ctrl_c_before_anything_is_kept_exits_130_too(capsys, monkeypatch) -> None:
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rheostat.evaluation.lookup.measure", interrupted)
    assert call(capsys, "evaluate", "oat-digits") == (
        130,
        "",
        "rheostat: stopped; what was written before is whole and is kept\n",
    )


def test_the_packaged_model_works_at_once_and_is_small(capsys) -> None:
    from rheostat.models.artifact import packaged

    assert packaged()["oat-digits"].stat().st_size < 1_000_000
    model = rheostat.load("oat-digits")
    assert model.dial_map is not None
    code, out, _ = call(capsys, "info", "oat-digits")
    assert code == 0
    assert "calibrated" in out


@pytest.mark.data
@pytest.mark.parametrize(
    "net",
    [
        {"name": "small_cnn", "base_width": 8},
        {"name": "resnet", "depth": 8, "base_width": 8},
        {"name": "resnet", "depth": 18, "base_width": 8},
        {"name": "wide_resnet", "depth": 10, "widen": 1, "base_width": 8, "dropout": 0.1},
        pytest.param({"name": "mobilenet_v2", "width": 0.25}, marks=pytest.mark.slow),
    ],
    ids=lambda net: f"{net['name']}-{net.get('depth', '')}",
)
def test_each_net_family_trains_an_epoch_on_real_images(capsys, tmp_path, real_data, net) -> None:
    code, _out, err = call(
        capsys,
        "train",
        "oat-fashion",
        "--out",
        str(tmp_path),
        "--data-dir",
        str(real_data),
        *SMALL,
        "--set",
        "data.train_images=2000",
        "--set",
        f"net={json.dumps(net)}",
        "--set",
        "attack.steps=1",
        "--set",
        "train.batch=50",
        "--set",
        "train.lr=0.05",
        "--set",
        "train.schedule=cosine",
    )
    assert code == 0, err
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["loss"] < 2.4
    assert line["train_clean_accuracy"] > 0.13


FAULTS = """
import resource, sys, torch
from rheostat.runtime.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(10_000_000)
before = faults()
for _ in range(20):
    torch.ones(10_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_kept() -> None:
    """40 MB twenty times over: from the system each time, or the same memory again."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}

    def faults(how: str, **more: str) -> int:
        line = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(line, env={**clean, **more}, capture_output=True, text=True)
        return int(done.stdout) if done.returncode == 0 else -1

    # Some kernels take pages back from an idle heap: a few of the twenty then come from the system all the same.
    assert 0 <= faults("keep") < faults("leave") / 5
    # Whoever has set the allocator keeps it: then nothing takes effect, and this says so.
    assert faults("keep", MALLOC_ARENA_MAX="2") == -1
