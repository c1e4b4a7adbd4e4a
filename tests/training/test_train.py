"""Training: golden losses, kills and stops that lose nothing, ranks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rheostat import data, nets
from rheostat.methods import compose
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.files import read_tensors
from rheostat.runtime.seeding import stream
from rheostat.training.loop import Interrupted, build, train
from rheostat.training.recipe import Recipe, load_recipe
from rheostat.training.schedules import share_of_rate
from rheostat.training.starting import own_network
from rheostat.training.step import Step, batches, sgd, training_attack
from support import plan_of

SMALL = ["calibrate_dial=false", "select.images=20", "select.steps=2", "train.epochs=2"]


def recipe(*changes: str) -> Recipe:
    return load_recipe("oat-digits", changes=[*SMALL, *changes])


def losses(paper: str, steps: int = 20) -> list[float]:
    """The losses of the first steps of a run, by the library's own parts."""
    chosen = recipe(f"paper={paper}", "method={}", "attack.steps=2", "train.batch=64")
    train_set, _ = data.load("digits")
    model = build(chosen, train_set).to_layout(torch.channels_last)
    optimiser = sgd(model, chosen)
    step = Step(model, training_attack(chosen), Ranks())
    out = []
    for i in range(steps):
        x, y = batches(train_set, chosen, i, len(train_set) // 64, Ranks())
        optimiser.param_groups[0]["lr"] = chosen.train.lr * share_of_rate(chosen, 200)(i)
        optimiser.zero_grad(set_to_none=False)
        terms = plan_of(model.method, 64, stream(0, "plan", i))
        out.append(step.backward(terms, x, y, batch=64, seed=(0, "step", i))["loss"])
        optimiser.step()
    return out


GOLDEN = {
    "oat": [2.56859, 2.53656, 2.52463, 2.46335, 2.4876, 2.44101, 2.47418, 2.42336, 2.40557, 2.39168, 2.33656],
    "dual": [2.58445, 2.55883, 2.54771, 2.51217, 2.55648, 2.49679, 2.53544, 2.50468, 2.49744, 2.42677, 2.39621],
    "pgd-at": [2.71017, 2.69233, 2.65106, 2.6276, 2.65589, 2.60725, 2.67862, 2.66376, 2.61107, 2.56118, 2.433],
}


@pytest.mark.parametrize("paper", sorted(GOLDEN))
def test_golden_losses(paper: str) -> None:
    # A change that should not alter the computation leaves these; rounding differs by machine, and
    # grows along training: 1e-3 over the first ten steps, 2e-2 at the twentieth.
    found = losses(paper)
    assert found[:10] == pytest.approx(GOLDEN[paper][:10], abs=1e-3)
    assert found[19] == pytest.approx(GOLDEN[paper][10], abs=2e-2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")[0]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def command(out: Path, *more: str) -> list[str]:
    sets = [part for change in (*SMALL, *more) for part in ("--set", change)]
    return [sys.executable, "-m", "rheostat", "train", "oat-digits", "--out", str(out), "--threads", "1", *sets]


@pytest.mark.slow
def test_sigkill_at_ten_random_moments_ends_with_equal_weights(tmp_path: Path) -> None:
    more = ("train.checkpoint_seconds=0", "train.ema=0.9", "train.epochs=4")
    started = time.monotonic()
    subprocess.run(command(tmp_path / "whole", *more), check=True, capture_output=True)
    whole_seconds = time.monotonic() - started
    out = tmp_path / "killed"
    chance = random.Random(0)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen(command(out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kills < 10:
            # Wait until the run makes progress of its own, then any moment: inside a step, inside
            # the write of a checkpoint, inside scoring.
            _until_changed(out / "checkpoint.safetensors", process)
            time.sleep(chance.uniform(0, whole_seconds / 60))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
        elif process.wait() == 0:
            break
    assert kills == 10
    assert equal(weights(tmp_path / "whole"), weights(out))
    lines = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("whole", "killed")]
    for a, b in zip(*lines, strict=True):
        left, right = json.loads(a), json.loads(b)
        assert {**left, "seconds": 0} == {**right, "seconds": 0}
    # A killed write leaves only a hidden part: what is not hidden is what an undisturbed run leaves.
    assert seen_files(out) == seen_files(tmp_path / "whole")


def seen_files(folder: Path) -> set[str]:
    """The files of a run by their paths in its folder, but for hidden ones and TensorBoard's events."""
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    return {str(p) for p in files if not p.name.startswith((".", "events."))}


def _until_changed(path: Path, process: subprocess.Popen[bytes]) -> None:
    before = path.stat().st_mtime_ns if path.exists() else 0
    while process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


@pytest.mark.parametrize("paper", ["oat", "oats", "floats", "smart", "rdi"])
def test_a_stop_saves_and_the_same_call_continues_to_the_same_weights(tmp_path: Path, paper: str) -> None:
    # Masks, running averages, frozen noise and every norm set are part of the state.
    small = ("train.batch=64", "data.train_images=320", "attack.steps=2")  # two epochs of five steps
    chosen = recipe(f"paper={paper}", "method={}", *small)

    def stop_at_three(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(chosen, out=tmp_path / "a", report=stop_at_three)
    train(chosen, out=tmp_path / "a")
    train(chosen, out=tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    """A second one would write over the first one's checkpoint; a dead one holds nothing."""
    code = "import sys, time; from pathlib import Path; from rheostat.runtime.files import alone\n"
    code += "with alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    line = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is training in"):
            train(recipe("train.max_steps=2"), out=tmp_path)
        assert not (tmp_path / "recipe.json").exists()
        other.kill()
    train(recipe("train.max_steps=2"), out=tmp_path)


def test_a_checkpoint_of_a_method_with_other_defaults_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe says the same, and the network that it builds is another one."""
    train(recipe("train.max_steps=2"), out=tmp_path)
    monkeypatch.setattr(Recipe, "stack", lambda self: compose("dual"))
    with pytest.raises(ValueError, match="another network than this recipe builds now"):
        train(recipe("train.max_steps=2"), out=tmp_path)


def test_a_tunable_of_another_composition_than_the_recipe_is_refused(tmp_path: Path) -> None:
    """It was trained, and its rows named the recipe's method."""

    def made() -> Tunable:
        return Tunable(nets.resnet(depth=8, base_width=4, image=(1, 8, 8)), compose("dual"))

    with pytest.raises(ValueError, match=r"made returned a Tunable of Stack\(Dual.*method are Stack\(Dual.*Film"):
        train(recipe("train.max_steps=1"), out=tmp_path, net=made)
    assert not (tmp_path / "recipe.json").exists()
    train(recipe("train.max_steps=1", "paper=dual", "method={}"), out=tmp_path, net=made)


def test_the_first_weights_of_an_own_network_are_those_of_the_seed_and_of_the_first_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factory that drew from Python or NumPy gave every rank a network of its own."""

    def made() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        nn.init.constant_(net[4].weight, random.uniform(-0.1, 0.1))
        nn.init.constant_(net[4].bias, float(np.random.normal()))  # noqa: NPY002
        return net

    train_set, _ = data.load("digits")
    first, second = (own_network(recipe(), train_set, made).state_dict() for _ in range(2))
    assert equal(first, second)
    copied: list[int] = []
    monkeypatch.setattr(Ranks, "copy_first", lambda self, tensors: copied.append(len(list(tensors))))
    train(recipe("train.max_steps=1"), out=tmp_path, net=made)
    assert copied == [len(first)]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(recipe("train.max_steps=2"), out=tmp_path)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(recipe("train.max_steps=3"), out=tmp_path)
    train(recipe("train.max_steps=3"), out=tmp_path, fresh=True)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a complete Rheostat file"):
        train(recipe("train.max_steps=3"), out=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "steps"), [("oat", 5), ("dual", 5), ("float", 2), ("floats", 1), ("rdi", 2)])
def test_two_ranks_equal_one(tmp_path: Path, paper: str, steps: int) -> None:
    # Fewer steps where rounding grows faster: noise makes the attacked loss rough; with masks a channel
    # without active weights has variance 0, and its norm multiplies rounding by 1/√eps = 316.
    # An L2 attack: the sign in an L∞ step turns a last-bit difference of a gradient near 0 into one
    # of 2·step_size in a pixel, which no implementation can avoid. An L2 step is continuous.
    more = (
        f"paper={paper}",
        "method={}",
        f"train.max_steps={steps}",
        "train.checkpoint_seconds=0",
        "train.lr=0.01",
        "select.every=9",
        "attack.norm=l2",
        "attack.eps=1.0",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(one, *more), check=True, capture_output=True)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *command(two, *more)[1:],
    ]
    subprocess.run(launch, check=True, capture_output=True, timeout=300)
    (a, _), (b, _) = (read_tensors(p / "checkpoint.safetensors") for p in (one, two))
    for key, value in a.items():
        if key.startswith("model/"):  # weights and running statistics
            assert torch.allclose(value, b[key], atol=5e-5, rtol=1e-4, equal_nan=True), key
    lines = [json.loads((p / "metrics.jsonl").read_text().splitlines()[0]) for p in (one, two)]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], abs=1e-5)
    assert lines[0]["train_robust_accuracy"] == lines[1]["train_robust_accuracy"]


@pytest.mark.slow
def test_what_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    more = ("paper=rdi", 'method={"defence": "routed"}', "train.max_steps=1")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *command(tmp_path, *more)[1:],
    ]
    found = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert found.returncode != 0
    assert "rheostat: exits: defence 'routed' takes its thresholds from the whole batch" in found.stderr
    assert "train in one process" in found.stderr
    assert not (tmp_path / "recipe.json").exists()


def test_clean_rows_of_training_see_their_own_statistics() -> None:
    """Batch norm statistics are those of a term's rows: another term's rows do not enter."""
    chosen = recipe("paper=dual", "method={}")
    train_set, _ = data.load("digits")
    model = build(chosen, train_set)
    sgd(model, chosen)
    x, y = batches(train_set, chosen, 0, 5, Ranks())
    step = Step(model, training_attack(chosen), Ranks())
    step.backward(plan_of(model.method, 128, stream(0)), x, y, batch=128, seed=(0,))
    pair = model.net.blocks[0].norm.source
    features = model.net.blocks[0].conv(model.net.normalise(x[::2]), model.resolve(None, x[::2]))
    expected = 0.1 * features.mean((0, 2, 3))
    assert torch.allclose(pair.clean.running_mean, expected, atol=1e-5)
