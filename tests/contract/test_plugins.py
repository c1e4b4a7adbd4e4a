"""Another package's method, network, data set and attack: found by entry points, used like ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rheostat.runtime.registry import Registry, origin_of

METHOD = """
from dataclasses import dataclass

import torch

from rheostat.methods import Dual, Method, compose_as, register
from rheostat.nn.layers import Conv, Transform, append, seats
from rheostat.points.dial import Dial


class Scale(Transform):
    order = 15

    def forward(self, parts, seat, x, at):
        return tuple((weight * at.settings["gain"], amount) for weight, amount in parts)


@register
@dataclass(frozen=True)
class Gain(Method):
    \"\"\"Declares the dial `gain`, by which every kernel is multiplied.\"\"\"

    low: float = 0.5

    def dials(self):
        return (Dial(name="gain", low=self.low, high=1.0, rest=1.0, structural=True),)

    def install(self, net):
        for conv in seats(net, Conv):
            append(conv, Scale())


compose_as("theirs", "A dual norm with a gain.", Dual, Gain)
"""
NET = """
from rheostat.nets import Net, register
from rheostat.nets.base import Classifier, ConvBlock, check_image, check_size, normaliser
from rheostat.nn.layers import Conv
from rheostat.nn.norms import Norm


@register()
def their_net(*, channels: int = 8, classes=10, image=(3, 8, 8), mean=None, std=None):
    inside, *_ = check_image("their_net", image, 4)
    check_size("their_net", channels=channels)
    blocks = [
        ConvBlock(Conv(inside, channels, padding=1, exact=True), Norm(channels), pool=True),
        ConvBlock(Conv(channels, channels, padding=1), Norm(channels)),
        ConvBlock(Conv(channels, channels, padding=1), Norm(channels)),
    ]
    return Net(
        blocks, Classifier(channels, classes), image=image, classes=classes, normalise=normaliser(inside, mean, std)
    )
"""
DATA = """
import torch

from rheostat.data import Dataset, Source, register


def read(folder):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randint(0, 60, (120, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images += (labels * 60).to(torch.uint8)[:, None, None, None]
    whole = Dataset("stripes", images, labels, ("a", "b", "c"))
    return whole.only(torch.arange(80)), whole.only(torch.arange(80, 120))


register("stripes", Source(read, image=(1, 8, 8), classes=3))
"""
ATTACK = """
from rheostat.attacks import AttackKind, TierEntry, register
from rheostat.attacks.objective import gradient


@register
class Walk(AttackKind):
    \"\"\"`walk`: sign steps that are projected back.\"\"\"

    name = "walk"
    grammar = ("walk",)
    uses = ("steps",)
    defaults = {"steps": 3}
    tiers = (TierEntry("walk", order=10, tiers=("theirs",)), TierEntry("pgd3", order=20, tiers=("theirs",)))

    def run(self, attack, objective, images, generator, *, share=None):
        moved = images
        for _ in range(attack.steps):
            moved = moved + attack.size * gradient(objective, moved)[0].sign()
            moved = images + (moved - images).clamp(-attack.eps, attack.eps)
            moved = moved.clamp(0, 1)
        return moved
"""
FILES = {"method": METHOD, "net": NET, "data": DATA, "attack": ATTACK}
GROUPS = {"method": "methods", "net": "nets", "data": "datasets", "attack": "attacks"}
RECIPE = """
name = "plug"
paper = "theirs"
about = "Everything from another package."

[method]
low = 0.25

[net]
name = "their_net"
channels = 4

[data]
name = "stripes"
calibrate = 20

[attack]
kind = "walk"
eps = 0.1
steps = 2

[train]
epochs = 1
batch = 16
max_steps = 3
lr = 0.01

[select]
images = 10
steps = 1
"""
USE = """
import json, sys
from pathlib import Path

import torch

import rheostat
from rheostat.attacks import ATTACKS, named
from rheostat.evaluation.tiers import attacks_of
from rheostat.methods import COMPOSITIONS

model = rheostat.load(sys.argv[1])
x = torch.rand(4, 1, 8, 8)
at = rheostat.Point(robustness=0.5, gain=0.6)
out = rheostat.save(Path(sys.argv[1]) / "again.safetensors", model)
same = torch.equal(model(x, at), rheostat.load(out)(x, at))
exits = rheostat.Tunable(rheostat.nets.build({"name": "their_net"}), rheostat.compose("rdi"))
print(json.dumps({
    "method": repr(model.method), "net": model.net.spec["name"], "same": same,
    "moved": not torch.equal(model(x, at), model(x, at.replace(gain=1.0))),
    "tier": attacks_of("theirs", 3), "standard": "walk" in attacks_of("standard", 3),
    "name": named("walk", eps=0.1).name, "last": list(COMPOSITIONS)[-1],
    "exits": exits(torch.rand(2, 3, 8, 8)).shape[1],
}))
"""


def install(root: Path, kinds: list[str]) -> None:
    """A package on a search path as pip would leave it: a module a kind, and the entry points that name them."""
    package, info = root / "theirs", root / "theirs-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").touch()
    lines = []
    for kind in kinds:
        (package / f"{kind}.py").write_text(FILES[kind])
        lines += [f"[rheostat.{GROUPS[kind]}]", f"theirs = theirs.{kind}"]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(root), *(p for p in sys.path if p)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def test_another_package_adds_one_of_each_and_all_of_the_road_uses_it(tmp_path: Path) -> None:
    install(tmp_path, list(FILES))
    (tmp_path / "plug.toml").write_text(RECIPE)
    trained = run(tmp_path, "-m", "rheostat", "train", "plug.toml", "--out", "out")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    measured = run(tmp_path, "-m", "rheostat", "evaluate", "out", "--at", "robustness=1", "--attack", "walk")
    assert measured.returncode == 0, measured.stdout + measured.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["attack"]["name"] for row in rows] == ["walk", "worst"]
    assert {row["dataset"] for row in rows} == {"stripes"}
    used = run(tmp_path, "-c", USE, "out")
    assert used.returncode == 0, used.stderr
    found = json.loads(used.stdout)
    assert found == {
        "method": "Stack(Dual(sets=2, between='blend', attacked=0.5), Gain(low=0.25))",
        "net": "their_net",
        "same": True,
        "moved": True,
        "tier": ["walk", "pgd3"],
        "standard": False,
        "name": "walk",
        "last": "theirs",
        "exits": 10,
    }
    # Without the package its model is refused by name, and what is missing is said.
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text("")
    alone = run(tmp_path, "-c", "import rheostat; rheostat.load('out')")
    assert "no network 'their_net'" in alone.stderr
    assert "if another package adds it, install that package" in alone.stderr


COUNT = """
import sys
from rheostat.attacks import ATTACKS
from rheostat.data import DATASETS
from rheostat.methods import METHODS
from rheostat.nets import NETS

assert sys.argv[2] in {"method": METHODS, "net": NETS, "data": DATASETS, "attack": ATTACKS}[sys.argv[1]].names()
"""


@pytest.mark.parametrize(
    ("kind", "name"), [("method", "Gain"), ("net", "their_net"), ("data", "stripes"), ("attack", "walk")]
)
def test_each_kind_takes_one_file(tmp_path: Path, kind: str, name: str) -> None:
    install(tmp_path, [kind])
    assert [p.name for p in (tmp_path / "theirs").iterdir() if p.name != "__init__.py"] == [f"{kind}.py"]
    found = run(tmp_path, "-c", COUNT, kind, name)
    assert found.returncode == 0, found.stderr


def test_a_file_in_a_room_of_ours_is_found_without_being_listed(tmp_path: Path) -> None:
    import shutil

    import rheostat

    shutil.copytree(Path(rheostat.__file__).parent, tmp_path / "rheostat", ignore=shutil.ignore_patterns("__pycache__"))
    for kind, text in FILES.items():
        room = "data" if kind == "data" else GROUPS[kind]
        (tmp_path / "rheostat" / room / "added.py").write_text(text)
    script = "".join(COUNT.split("assert")[0]) + (
        "assert 'Gain' in METHODS and 'their_net' in NETS and 'stripes' in DATASETS and 'walk' in ATTACKS\n"
        "import rheostat; print(rheostat.__file__)"
    )
    found = run(tmp_path, "-c", script)
    assert found.returncode == 0, found.stderr
    assert str(tmp_path) in found.stdout


def test_a_broken_package_is_one_warning_that_names_it(tmp_path: Path) -> None:
    install(tmp_path, ["attack", "data"])
    (tmp_path / "theirs" / "attack.py").write_text("import nothing_of_the_kind\n")
    script = (
        "from rheostat.attacks import named, Attack\nfrom rheostat import data\n"
        "named('pgd20', eps=0.1)\nnamed('fgsm', eps=0.1)\nprint('stripes' in data.DATASETS)"
    )
    found = run(tmp_path, "-c", script)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "True"
    assert found.stderr.count("the package 'theirs' adds 'theirs' to rheostat.attacks, which cannot be loaded") == 1
    assert "cannot be loaded" not in run(tmp_path, "-c", "import rheostat, rheostat.attacks").stderr


def test_names_are_taken_once_and_mistakes_are_named() -> None:
    registry: Registry[int] = Registry("colour", group="rheostat.nothing")
    registry.register("red", 1, origin="a.red")
    registry.register("red", 2, origin="a.red")  # a cell of a notebook, run again
    with pytest.raises(ValueError, match=r"the colour 'red' is already registered by a\.red"):
        registry.register("red", 3, origin="b.red")
    with pytest.raises(ValueError, match="no colour 'rad'; did you mean 'red'"):
        registry.get("rad")
    assert (registry.names(), len(registry), registry.get("red")) == (["red"], 1, 2)
    assert origin_of(Registry) == "rheostat.runtime.registry.Registry"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "blue" not in registry
