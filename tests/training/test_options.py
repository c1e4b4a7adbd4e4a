"""What watches training, and that every option of a recipe has an effect."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rheostat.runtime.files import read_tensors
from rheostat.training import TensorBoard, checkpoint
from rheostat.training.loop import train
from rheostat.training.recipe import Recipe, load_recipe
from rheostat.training.selection import Watch
from rheostat.training.step import sgd

SMALL = ["calibrate_dial=false", "select.images=20", "select.steps=2", "train.epochs=2"]


def recipe(*changes: str) -> Recipe:
    return load_recipe("oat-digits", changes=[*SMALL, *changes])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")[0]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_guards_are_raised_by_planted_curves(digits) -> None:
    watch = Watch(recipe("train.epochs=10"), digits[0], epochs=10)

    def line(epoch: int, robust: float, single: float, train_robust: float) -> dict[str, object]:
        return {
            "epoch": epoch,
            "calibrate": [{"robust_accuracy": robust}],
            "single_step_accuracy": single,
            "train_robust_accuracy": train_robust,
            "flags": [],
        }

    good = [line(i, 0.3 + 0.03 * i, 0.4 + 0.03 * i, 0.3 + 0.04 * i) for i in range(1, 8)]
    assert watch.flags(good[:-1], good[-1]) == []
    assert watch.flags(good, line(8, 0.02, 0.9, 0.8)) == ["fast-attack-collapse", "robust-overfitting"]
    assert watch.flags(good, line(8, 0.45, 0.55, 0.8)) == ["robust-overfitting"]
    assert watch.flags(good, line(8, 0.45, 0.55, 0.5)) == []


WIDE = ("net.name=wide_resnet", "net.depth=10", "net.widen=1")


OPTIONS = {
    "n-fgsm": ((), "attack.kind=n-fgsm"),
    "norm": (("attack.eps=0.5",), "attack.norm=l2"),
    "eps": ((), "attack.eps=0.05"),
    "margin": ((), "attack.loss=margin"),
    "smoothing": ((), "train.label_smoothing=0.1"),
    "clip": ((), "train.clip=0.1"),
    "ema": ((), "train.ema=0.5"),
    "bf16": ((), "device.precision=bf16"),
    "trades": ((), "train.trades=6"),
    "awp": ((), "train.awp=0.01"),
    "net": ((), *WIDE),
    "dropout": (WIDE, "net.dropout=0.3"),
    "lambda": ((), "method.lambda_support=uniform"),
    "schedule": ((), "train.schedule=constant"),
}


@pytest.fixture(scope="session")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """The weights after three steps of a recipe with some changes; each set of changes is trained once."""

    @functools.cache
    def trained(*changes: str) -> dict[str, torch.Tensor]:
        small = ("train.max_steps=3", "train.batch=32", "attack.steps=2", "select.images=10")
        done = train(recipe(*small, *changes), out=tmp_path_factory.mktemp("options"))
        assert 0 < done.progress.epochs[-1]["loss"] < 10
        return {k: v.clone() for k, v in done.model.state_dict().items()}

    return trained


@pytest.mark.filterwarnings("ignore::rheostat.runtime.choices.NoEffectWarning")
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_training_has_an_effect(
    option: str, three_steps: Callable[..., dict[str, torch.Tensor]]
) -> None:
    base, *changes = OPTIONS[option]
    plain, changed = three_steps(*base), three_steps(*base, *changes)
    assert all(bool(torch.isfinite(v).all()) for v in changed.values())
    assert not equal(plain, changed)


def test_training_twice_gives_the_same_weights(tmp_path: Path) -> None:
    """What makes the comparison of options mean something: without a change there is no difference."""
    small = ("train.max_steps=3", "train.batch=32", "attack.steps=2", "select.images=10")
    for name in ("a", "b"):
        train(recipe(*small), out=tmp_path / name)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_bf16_trains_on_the_weights_of_the_step(tmp_path: Path) -> None:
    """As fp32 does, to a few per mille: a cast weight that outlives its step would show at once."""
    more = ("train.max_steps=20", "attack.steps=2")
    found = [
        train(recipe(*more, f"device.precision={p}"), out=tmp_path / p).progress.epochs[-1]["loss"]
        for p in ("fp32", "bf16")
    ]
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_tensorboard_is_a_callback_and_the_default_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(recipe("train.max_steps=1"))
    assert Path("runs/oat-digits/model.safetensors").is_file()
    assert not Path("runs/oat-digits/tensorboard").exists()
    train(recipe("train.max_steps=1"), fresh=True, callbacks=[TensorBoard()])
    assert list(Path("runs/oat-digits/tensorboard").glob("events.*"))


@pytest.mark.slow
def test_compiled_training_runs_and_agrees(tmp_path: Path, monkeypatch) -> None:
    # The tracer without the C++ compiler, which takes minutes; with it the same test passed by hand.
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **o: original(f, backend="aot_eager", **o))
    small = ("train.max_steps=2", "train.batch=32", "attack.steps=1", 'net={"name": "small_cnn"}')
    plain = train(recipe(*small), out=tmp_path / "a")
    compiled = train(recipe(*small, "device.compile=true"), out=tmp_path / "b")
    a, b = (d.progress.epochs[-1]["loss"] for d in (plain, compiled))
    assert a == pytest.approx(b, abs=1e-3)


def test_restore_gives_back_layouts(tmp_path: Path) -> None:
    done = train(recipe("train.max_steps=1"), out=tmp_path)
    state = checkpoint.State(done.model, sgd(done.model, done.recipe), checkpoint.Progress())
    _, about = read_tensors(tmp_path / "checkpoint.safetensors")
    kept = checkpoint.read(tmp_path / "checkpoint.safetensors", about["fingerprint"])
    checkpoint.restore(kept, state)
    weight = done.model.net.blocks[1].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert state.momentum().keys() == dict(done.model.named_parameters()).keys()
    with pytest.raises(
        ValueError, match=r"a run of 1 process, and this is one of 2 processes; continue it with one process, or"
    ):
        checkpoint.read(tmp_path / "checkpoint.safetensors", "another", ranks=2)
