"""The example on a user's own data, with a network of timm: 96×96 colour JPEGs made of CIFAR-10."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm_shim import timm

import rheostat
from rheostat import data
from rheostat.models import artifact

EXAMPLE = Path(__file__).parents[2] / "examples" / "your_data.py"
CHOSEN = ("airplane", "automobile", "frog", "ship")
NETWORK = "timm:resnet10t(num_classes=4, channels=(16, 32, 64, 128), stem_width=16)"


def cifar_tree(folder: Path, source: Path, train: int, test: int) -> Path:
    """`train` and `test` images of each of four classes, upsampled to 96×96, as JPEGs."""
    for half, images, each in zip(
        ("train", "test"), data.load("cifar10", folder=source, verify=False, fetch=False), (train, test), strict=True
    ):
        for name in CHOSEN:
            (folder / half / name).mkdir(parents=True)
            rows = (images.labels == images.classes.index(name)).nonzero()[:each, 0]
            for number, pixels in enumerate(images.images[rows]):
                picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((96, 96), Image.Resampling.BICUBIC)
                picture.save(folder / half / name / f"{number}.jpg", quality=95)
    return folder


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.filterwarnings("ignore:not calibrated")  # one epoch moves no dial
def test_the_example_trains_a_timm_network_on_a_folder(tmp_path: Path, monkeypatch, real_data, capsys) -> None:
    if not any((real_data / "cifar10" / f"cifar-10-batches-{kind}").is_dir() for kind in ("bin", "py")):
        pytest.skip("CIFAR-10 is not unpacked in RHEOSTAT_DATA")
    timm()
    tree = cifar_tree(tmp_path / "cifar", real_data, 50, 10)
    monkeypatch.chdir(tmp_path)
    rows = runpy.run_path(str(EXAMPLE))["main"](str(tree), NETWORK, "1", size=96)
    worst = [row for row in rows if row.attack.name == "worst"]
    assert [row.at["robustness"] for row in worst] == [0, 0.5, 1]
    assert all(row.n == 40 for row in worst)
    assert "t = 0.5: SA" in capsys.readouterr().out
    model, about = artifact.load_with("runs/your-data/mine.safetensors")  # a timm name needs no net=
    assert (about.classes, about.preprocessing) == (CHOSEN, data.Preprocessing((96, 96)))
    _, test = data.load(f"folder:{tree}", preprocessing=about.preprocessing)
    again = rheostat.load("runs/your-data/model.safetensors")
    x = data.to_pixels(test.images[:4])
    assert torch.equal(model.at(robustness=1.0)(x), again.at(robustness=1.0)(x))
