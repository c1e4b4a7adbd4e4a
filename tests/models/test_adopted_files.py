"""The file of an adopted network: rebuilt by what the caller gives, never by what it says, and checked by its hash."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import rheostat
from rheostat.cli.app import main
from rheostat.models import artifact
from rheostat.models.factories import timm_arguments
from rheostat.points.point import Point
from support import Plain

IMAGE = (3, 8, 8)


def saved(path: Path, *, module: object = Plain, **options: object) -> tuple[rheostat.Tunable, Path]:
    torch.manual_seed(0)
    model = rheostat.adopt(module, "oat", image=IMAGE, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model, model.save(path / "mine.safetensors")


def metadata(path: Path) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["rheostat"])


def rewritten(path: Path, **changes: object) -> Path:
    """The file with other metadata."""
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"rheostat": json.dumps(metadata(path) | changes)})
    return path


def with_hint(path: Path, hint: str) -> Path:
    """The file with another factory named in it."""
    return rewritten(path, adopted={**metadata(path)["adopted"], "factory": hint})


def test_a_file_gives_back_the_same_bits_by_function_name_and_module(tmp_path: Path, monkeypatch) -> None:
    model, path = saved(tmp_path, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.3))
    model.points = {"safe": Point(robustness=0.9)}
    model.save(path)
    assert metadata(path)["adopted"]["factory"] == "support:Plain"
    x = torch.rand(4, *IMAGE)
    for net in (Plain, "support:Plain", Plain()):
        again = rheostat.load(path, net=net)
        assert torch.equal(again.at("safe")(x), model.at("safe")(x))
        assert again.net.factory == "support:Plain"
        assert artifact.digest(again.save(tmp_path / "again.safetensors")) == artifact.digest(path)


def test_exits_come_back_at_their_layers(tmp_path: Path) -> None:
    model = rheostat.adopt(Plain, "rdi", image=IMAGE, exits=("stem", "down"))
    again = rheostat.load(model.save(tmp_path / "x.safetensors"), net=Plain)
    assert again.method == model.method
    x = torch.rand(2, *IMAGE)
    for depth in (1, 2, 3):
        assert torch.equal(again(x, Point(depth=depth)), model(x, Point(depth=depth)))


def test_a_file_never_has_anything_imported(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "boom.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    _, path = saved(tmp_path)
    for hint, said in (("boom:make", "'boom:make' made it; if you trust that"), ("", "give a function that makes")):
        with pytest.raises(ValueError, match=rf"{said}.* net=make\) or --net package.module:function"):
            rheostat.load(with_hint(path, hint))
    assert "boom" not in sys.modules
    for hint in ("timm:hf-hub:org/name", "timm:x(pretrained=True)", "timm:x(checkpoint_path='/tmp/x')", "timm:x(**y)"):
        with pytest.raises(ValueError, match=r"not plain|is written timm:NAME|as name=value"):
            rheostat.load(with_hint(path, hint))


@pytest.mark.parametrize("adopted", [[], None, {"factory": 1}, {"architecture": "x"}, {}])
def test_a_damaged_description_of_the_users_network_is_refused_in_one_line(tmp_path: Path, adopted: object) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"mine.safetensors: (adopted|the description of its)"):
        rheostat.load(rewritten(path, adopted=adopted), net=Plain)


@pytest.mark.parametrize("value", [["x"] * 3, [None] * 3, [float("nan")] * 3, "xyz", 3])
def test_a_damaged_normalisation_is_refused_in_one_line(tmp_path: Path, value: object) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"mine.safetensors: .* is incomplete or damaged"):
        rheostat.load(rewritten(path, net={**metadata(path)["net"], "std": value}), net=Plain)
    with pytest.raises(ValueError, match="must be finite numbers"):
        rheostat.adopt(Plain(), "oat", image=IMAGE, std=("x",) * 3)


class Nets:
    """A class that holds a factory."""

    @classmethod
    def small(cls) -> nn.Module:
        return Plain()


def test_the_factory_of_a_class_is_found_by_its_name(tmp_path: Path) -> None:
    _, path = saved(tmp_path, module=Nets.small)
    hint = metadata(path)["adopted"]["factory"]
    assert hint == f"{__name__}:Nets.small"
    assert rheostat.load(path, net=hint).net.factory == hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".nets:make", "needs the full name of its module, not a relative one, given '.nets:make'"),
        ("broken:make", r"cannot import 'broken': it raised SyntaxError: .*broken.py, line 1\)$"),
        (f"{__name__}:Nets.smal", "no callable 'Nets.smal'; did you mean 'Nets.small'"),
        (f"{__name__}:Net.small", "no callable 'Net.small'; did you mean 'Nets'"),
    ],
)
def test_a_wrong_name_of_a_factory_is_refused_in_one_line(tmp_path: Path, monkeypatch, name: str, message: str) -> None:
    (tmp_path / "broken.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        rheostat.adopt(name, "oat", image=IMAGE)


def test_arguments_of_timm_names_are_plain() -> None:
    found = timm_arguments("timm:vit_tiny_patch16_224(num_classes=10, img_size=(64, 64), act_layer='relu')")
    assert found == ("vit_tiny_patch16_224", {"num_classes": 10, "img_size": (64, 64), "act_layer": "relu"})
    assert timm_arguments("timm:resnet18.a1_in1k") == ("resnet18.a1_in1k", {})
    for wrong in ("x(10)", "x(a=b)", "x(a=10**9)", "x(a=99999)", "x(a='b')", "x(a=__import__('os'))", "x(", "../x"):
        with pytest.raises(ValueError, match="timm:"):
            timm_arguments(f"timm:{wrong}")


def test_a_hint_builds_hardly_more_layers_than_the_file_has_tensors(tmp_path: Path, monkeypatch) -> None:
    made: list[nn.Module] = []

    def create_model(name: str, *, pretrained: bool, layers: int) -> nn.Module:
        for _ in range(layers):
            made.append(nn.Linear(1, 1))  # noqa: PERF401 (those before the refusal are counted)
        return nn.Sequential(*made)

    fake = SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"mine\.safetensors: timm:x\(layers=8192\): .*far more layers"):
        rheostat.load(with_hint(path, "timm:x(layers=8192)"))
    assert 0 < len(made) < 1000


def test_another_architecture_is_refused_and_the_difference_said(tmp_path: Path) -> None:
    _, path = saved(tmp_path)

    class Other(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(16, 16, 5, padding=2)

    with pytest.raises(ValueError, match=r"not the one in the file: the file has .*circular.* where this network has"):
        rheostat.load(path, net=Other)

    class More(Plain):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(ValueError, match="the file has 'output output"):
        rheostat.load(path, net=More)
    with pytest.raises(ValueError, match="cannot import 'nowhere'"):
        rheostat.load(path, net="nowhere:make")
    with pytest.raises(ValueError, match="leave net"):
        rheostat.load("oat-digits", net=Plain)


def test_the_command_line_takes_the_factory(tmp_path: Path, monkeypatch, capsys) -> None:
    _, path = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in (
        ["info", str(path)],
        ["card", str(path)],
        ["export", str(path), "--at", "robustness=1"],
        ["bench", str(path), "--at", "robustness=1", "--seconds", "0.05"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        assert "--net package.module:function" in capsys.readouterr().err
        main([*command, "--net", "support:Plain"])
        assert capsys.readouterr().out
    for command in ("evaluate", "choose", "serve"):
        main([command, "--help"]) if command else None
        assert "--net" in capsys.readouterr().out
