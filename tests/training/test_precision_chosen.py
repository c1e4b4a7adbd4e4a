"""`device.precision = "auto"`: chosen by the chip, said once, kept in recipe and rows; a run keeps its own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rheostat
from rheostat.evaluation.target import Target
from rheostat.models.artifact import load_with
from rheostat.nets import small_cnn
from rheostat.runtime import precision
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.interrupts import Interrupted
from rheostat.training.loop import fingerprint, train
from rheostat.training.precision import settled
from rheostat.training.recipe import Recipe, load_recipe, parse_recipe
from rheostat.training.result import Trained

CPU = torch.device("cpu")


def chip(monkeypatch: pytest.MonkeyPatch, *, native: bool) -> None:
    """A machine whose chip multiplies bf16 itself, or does not."""
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)


def recipe(*changes: str) -> Recipe:
    """A run of two steps on the digits."""
    small = ("train.epochs=1", "train.max_steps=2", "train.batch=32", "select.images=10", "select.steps=1")
    more = ("net.base_width=4", "attack.steps=1", "calibrate_dial=false", "device.precision=auto")
    return load_recipe("oat-digits", changes=[*small, *more, *changes])


def test_what_a_chip_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    read = real_choice()
    for has, expected in (({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert read(CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert read(CPU) is False
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert read(torch.device("cuda", 0)) is expected
    assert read(torch.device("meta")) is False


def real_choice() -> Any:
    """The function itself, which the tests' configuration replaces."""
    import importlib.util

    spec = importlib.util.find_spec("rheostat.runtime.precision")
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh.native_bf16


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_resolved_said_once_and_kept(
    native: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip(monkeypatch, native=native)
    events: list[dict[str, Any]] = []
    done = train(recipe(), out=tmp_path, report=events.append)
    (said,) = [e for e in events if e["event"] == "precision"]
    assert said["precision"] == expected
    assert "chip" in said["why"]
    assert done.recipe.device.precision == expected
    assert json.loads((tmp_path / "recipe.json").read_text())["device"]["precision"] == expected
    model, about = load_with(tmp_path)
    assert about.provenance["recipe"]["device"]["precision"] == expected
    assert Target(model, "x", about=about).described()["train"]["precision"] == expected


def test_a_precision_that_is_named_is_taken_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip(monkeypatch, native=True)
    named, events = recipe("device.precision=fp32"), []
    assert settled(named, tmp_path, CPU, Ranks(), fresh=False, report=events.append) is named
    assert not events


def test_a_run_goes_on_in_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip(monkeypatch, native=True)
    asked = recipe()

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 1:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(asked, out=tmp_path, report=stop)
    chip(monkeypatch, native=False)
    events: list[dict[str, Any]] = []
    done = train(asked, out=tmp_path, report=events.append)
    assert done.recipe.device.precision == "bf16"
    (said,) = [e for e in events if e["event"] == "precision"]
    assert "began" in said["why"]
    assert "fp32" in said["why"]
    # Where nobody listens, a warning; one that names another precision is refused, and --fresh chooses anew.
    with pytest.warns(UserWarning, match="training in bf16: the run in .* began in it"):
        assert isinstance(train(asked, out=tmp_path), Trained)
    with pytest.raises(ValueError, match="belongs to another recipe or other options"):
        train(recipe("device.precision=fp32"), out=tmp_path)
    assert train(asked, out=tmp_path, fresh=True).recipe.device.precision == "fp32"


def test_ranks_take_bf16_only_if_every_chip_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip(monkeypatch, native=True)
    lacking: Any = SimpleNamespace(any=lambda mine: True, first=True)
    found = settled(recipe(), tmp_path, CPU, lacking, fresh=False, report=lambda event: None)
    assert found.device.precision == "fp32"


def test_fit_chooses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    chip(monkeypatch, native=True)
    model = rheostat.Tunable(small_cnn(base_width=4, image=(1, 8, 8)), rheostat.methods.compose("dual"))
    splits = rheostat.data.make_splits(*digits, calibrate=60)
    run = rheostat.fit(
        model,
        splits.train,
        splits.fit,
        eps=0.1,
        epochs=1,
        max_steps=1,
        attack={"steps": 1},
        out=tmp_path,
        select={"images": 10, "steps": 1},
        calibrate_dial=False,
    )
    assert run.settings.device.precision == "bf16"


def test_the_published_recipes_pin_theirs_and_the_mark_of_old_runs_stays() -> None:
    for name in ("oat-digits", "dual-fashion-mini"):
        assert load_recipe(name).device.precision == "fp32"
    assert load_recipe("dual-fashion").device.precision == "auto"
    # A recipe that a file of before holds says fp32; the same run now, resolved, has the same fingerprint.
    pinned = recipe("device.precision=fp32")
    assert fingerprint(parse_recipe(pinned.model_dump(mode="json")), 1) == fingerprint(pinned, 1)
    assert fingerprint(recipe("device.precision=bf16"), 1) != fingerprint(pinned, 1)
