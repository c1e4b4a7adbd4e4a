"""`rheostat train`: an own network on an own folder of images; a run that remembers where they are; mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from rheostat.cli.app import main
from rheostat.evaluation.lookup import find_data, find_target
from rheostat.models import artifact
from rheostat.training.loop import train
from rheostat.training.recipe import load_recipe

MODULE = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )


def wide():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""
QUICK = ["train.max_steps=2", "train.batch=8", "attack.steps=1", "select.images=4", "select.steps=1"]
QUICK += ["calibrate_dial=false", "data.calibrate=8"]


def sets(*more: str) -> list[str]:
    return [word for change in (*QUICK, *more) for word in ("--set", change)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tree of 2 classes of 20 images of 12 × 16."""
    for split, count in (("train", 20), ("test", 4)):
        for number, name in enumerate(("dark", "light")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 12), (100 * number + i,) * 3).save(place / f"{i}.png")
    return tmp_path / "images"


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:no model file is written:RuntimeWarning")
def test_an_own_network_on_a_folder(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = ["--data", f"folder:{folder}"]
    out = tmp_path / "run"
    main(["train", "oat-digits", *data, "--net", "own_nets:make", "--out", str(out), *sets()])
    assert (out / "metrics.jsonl").is_file()
    small = [*data, "--out", str(tmp_path / "b"), *sets()]
    assert "has 5 classes" in fails(["train", "oat-digits", "--net", "own_nets:wide", *small], capsys)
    assert "has no callable 'mak'" in fails(["train", "oat-digits", "--net", "own_nets:mak", *small], capsys)
    assert "--net must be package.module:function" in fails(["train", "oat-digits", "--net", "resnet", *small], capsys)


def test_a_run_remembers_where_its_images_are(folder: Path, tmp_path: Path, monkeypatch) -> None:
    recipe = load_recipe("oat-digits", changes=[*QUICK, f"data.name=folder:{folder.relative_to(tmp_path)}"])
    monkeypatch.chdir(tmp_path)
    train(recipe, out=tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    target = find_target(str(tmp_path / "run"), name=None, between=None)
    found = find_data(target, None, "test", data_dir=None, examples=None, verify=True)
    assert found.classes == ("dark", "light")
    assert len(found) == 8


def test_a_refused_run_does_not_move_the_images_of_a_finished_one(folder: Path, tmp_path: Path) -> None:
    """Its evaluations measured the images of the refused call."""
    other = shutil.copytree(folder, tmp_path / "other")
    recipe, wrong = (load_recipe("oat-digits", changes=[*QUICK, f"data.name=folder:{p}"]) for p in (folder, other))
    train(recipe, out=tmp_path / "run")
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(wrong, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data.json").read_text())["name"] == f"folder:{folder}"


def test_a_model_that_no_file_can_hold_is_not_named(tmp_path: Path, monkeypatch, capsys) -> None:
    """The next command would have evaluated the model of an older run."""

    def refuses(*given: object) -> None:
        raise ValueError("no file can hold it")

    line = ["train", "oat-digits", "--out", str(tmp_path), *sets()]
    main(line)
    assert "The model is" in capsys.readouterr().out
    monkeypatch.setattr(artifact, "save", refuses)
    main([*line, "--fresh"])
    said = capsys.readouterr().out
    assert "no model file is written" in said
    assert "The model is" not in said
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.data
def test_a_data_folder_is_remembered_too(real_data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("RHEOSTAT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    small = [*QUICK, "data.train_images=64", "data.name=fashion-mnist"]
    train(load_recipe("oat-digits", changes=small), out=tmp_path / "run", folder=real_data)
    target = find_target(str(tmp_path / "run"), name=None, between=None)
    assert len(find_data(target, None, "test", data_dir=None, examples=50, verify=False)) == 50


def test_an_eps_of_eight_is_refused(capsys, tmp_path: Path) -> None:
    assert "did you mean 8/255?" in fails(["evaluate", "oat-digits", "--eps", "8"], capsys)
    line = ["train", "oat-digits", "--out", str(tmp_path), "--set", "attack.eps=8"]
    assert "did you mean 8/255?" in fails(line, capsys)
    assert not list(tmp_path.iterdir())


def test_an_eps_that_is_changed_without_its_step_size_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"attack.step_size is still"):
        load_recipe("oat-fashion", changes=["attack.eps=8/255"])
    load_recipe("oat-fashion", changes=["attack.eps=8/255", "attack.step_size=2/255"])
    load_recipe("oat-digits", changes=["attack.eps=8/255"])  # no step size of its own
    with pytest.warns(UserWarning, match=r"attack.step_size is still"):
        load_recipe("oat-fashion").changed(attack={"eps": 0.05})


def test_data_of_another_shape_is_refused_before_work(folder: Path, capsys) -> None:
    said = fails(["evaluate", "oat-digits", "--data", f"folder:{folder}"], capsys)
    assert "images of 3 × 12 × 16" in said
    assert torch.get_num_threads() >= 1
