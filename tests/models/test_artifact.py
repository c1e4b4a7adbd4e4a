"""One file is the model: it holds everything, refuses what it does not know, is written whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import rheostat
from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.tunable import Tunable
from rheostat.points.dial_map import DialMap
from rheostat.points.point import Point
from rheostat.runtime.files import write_bytes
from support import images_for, make, train_step


def rewritten(path: Path, **changes: object) -> Path:
    """A file with some of its metadata set otherwise."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["rheostat"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    about = {k: v for k, v in (about | changes).items() if v is not ...}
    save_file(tensors, path, {"rheostat": json.dumps(about)})
    return path


def test_dial_map_points_and_words_survive(tmp_path: Path) -> None:
    model = make("oat", "resnet-8")
    model.dial_map = DialMap((0.0, 0.4, 1.0), (0.0, 0.1, 1.0), (0.0, 1.0, 1.0))
    model.points = {"safe": Point(robustness=0.9)}
    about = About(classes=tuple("abcdefghij"), threat={"eps": 0.1}, measured={"safe": {"ra": 0.5}})
    path = artifact.save(tmp_path / "m.safetensors", model, about)
    again, words = artifact.load_with(path)
    assert again.dial_map == model.dial_map
    assert again.points == model.points
    assert replace(words) == about
    x = images_for(model)
    assert torch.equal(again.at("safe")(x), model(x, Point(robustness=0.9)))
    assert artifact.digest(path) == artifact.digest(path)


def test_a_loaded_model_keeps_the_numbers_of_the_points_that_it_keeps(tmp_path: Path) -> None:
    model = make("oat", "resnet-8")
    model.points = {name: Point(robustness=0.9) for name in ("safe", "fast")}
    numbers = {"temperature": 2.0, "robust_bound": 0.4, "precision": "int8"}
    about = About(provenance={"seconds": 1.0}, measured={"safe": numbers, "fast": numbers})
    loaded = artifact.load(artifact.save(tmp_path / "m.safetensors", model, about))
    del loaded.points["fast"]
    again, words = artifact.load_with(loaded.save(tmp_path / "again.safetensors"))
    assert again.temperatures == {"safe": 2.0}
    assert words == About(measured={"safe": numbers})


def test_measured_numbers_do_not_outlive_what_they_were_measured_on(tmp_path: Path) -> None:
    model = make("oat", "resnet-8")
    model.points = {name: Point(robustness=0.9) for name in ("safe", "fast")}
    measured = {name: {"temperature": 2.0, "robust_bound": 0.4} for name in model.points}
    file = artifact.save(tmp_path / "m.safetensors", model, About(measured=measured))

    def kept(change: Callable[[Tunable], object]) -> dict[str, object]:
        loaded = artifact.load(file)
        change(loaded)
        return artifact.load_with(loaded.save(tmp_path / "again.safetensors"))[1].measured

    assert kept(train_step) == {}
    assert kept(lambda m: setattr(m, "dial_map", DialMap((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)))) == {}
    assert kept(lambda m: m.points.update(safe=Point(robustness=0.2))) == {"fast": measured["fast"]}

    def measured_again(m: Tunable) -> None:
        train_step(m)
        m.about = About(measured={"safe": {"robust_bound": 0.3}})

    assert kept(measured_again) == {"safe": {"robust_bound": 0.3}}


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [("a" * 101, {}, "at most 100"), ("safe", {"clean_accuracy": 91.2}, "less than or equal to 1, given 91.2")],
)
def test_a_point_with_which_the_file_would_not_load_is_refused(tmp_path: Path, name, numbers, message: str) -> None:
    path = artifact.save(tmp_path / "m.safetensors", make("oat", "resnet-8"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        artifact.name_point(path, name, Point(robustness=0.5), numbers)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifact": 2}, "artifact format 2, this version reads format 1"),
        ({"artifact": ...}, "not a model"),
        ({"teleport": 1}, "holds 'teleport', which this version does not know"),
        ({"composition": "Stack(Dual(), Warp())"}, "no method 'Warp'"),
        ({"composition": "Dual()"}, "do not fit the composition"),
        ({"dials": []}, "dials are not those"),
        ({"net": {"name": "resnet", "depth": 9}}, "no depth 9"),
        ({"points": {"x": {"speed": 1}}}, "no dial 'speed'"),
    ],
)
def test_what_it_does_not_know_is_refused(tmp_path: Path, changes, message: str) -> None:
    path = artifact.save(tmp_path / "m.safetensors", make("oat", "resnet-8"))
    with pytest.raises(ValueError, match=message):
        artifact.load(rewritten(path, **changes))


def test_foreign_and_broken_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="not one of Rheostat's"):
        artifact.load(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="not a complete Rheostat file"):
        artifact.load(tmp_path / "text.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is its training finished"):
        artifact.load(tmp_path / "empty")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_public_surface() -> None:
    for name in rheostat.__all__:
        assert getattr(rheostat, name) is not None
    model = rheostat.load("oat-digits")
    x = torch.rand(3, 1, 8, 8)
    mixed = model(x, rheostat.Point(robustness=torch.tensor([0.0, 0.5, 1.0])))
    assert torch.allclose(mixed[2], model.at(robustness=1.0)(x)[2], atol=1e-4)


def test_importing_is_light() -> None:
    import subprocess
    import sys

    heavy = "scipy pyautoattack matplotlib pooch sklearn pandas tensorboard torchvision foolbox art"
    code = f"import sys, rheostat, rheostat.cli.app; print([m for m in {heavy.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
