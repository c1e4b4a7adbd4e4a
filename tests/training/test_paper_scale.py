"""Recipes at the papers' scale: two steps each, with the papers' networks, on files in the true formats."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from rheostat import data
from rheostat.training.loop import build, train
from rheostat.training.recipe import load_recipe, names

PAPER_SCALE = [n for n in names() if not n.endswith(("-fashion", "-digits", "-small", "-mini"))]
"""The papers' recipes, and those of the models that ship."""
CLASSES = {"mnist": 10, "fashion-mnist": 10, "cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10, "tiny-imagenet": 4}
RNG = np.random.default_rng(0)


def cifar(folder: Path, files: dict[str, int], label_bytes: int, classes: int) -> None:
    folder.mkdir(parents=True)
    for name, count in files.items():
        table = np.zeros((count, label_bytes + 3072), np.uint8)
        table[:, label_bytes - 1] = np.arange(count) % classes
        table[:200, label_bytes:] = RNG.integers(0, 256, (200, 3072), dtype=np.uint8)
        (folder / f"{name}.bin").write_bytes(table.tobytes())


def idx(path: Path, values: np.ndarray) -> None:
    """An idx file of bytes, gzipped."""
    head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes(), 1))


@pytest.fixture(scope="module")
def papers_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files in the true formats: only as many images as a format leaves free."""
    from PIL import Image
    from scipy.io import savemat

    root = tmp_path_factory.mktemp("papers")
    batches = {**{f"data_batch_{i}": 10_000 for i in range(1, 6)}, "test_batch": 10_000}
    cifar(root / "cifar10" / "cifar-10-batches-bin", batches, 1, 10)
    cifar(root / "cifar100" / "cifar-100-binary", {"train": 50_000, "test": 10_000}, 2, 100)
    for name in ("mnist", "fashion-mnist"):
        (root / name).mkdir()
        for half, count in (("train", 60), ("t10k", 20)):
            pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            marks = (np.arange(count) % 10).astype(np.uint8)
            idx(root / name / f"{half}-images-idx3-ubyte.gz", pixels)
            idx(root / name / f"{half}-labels-idx1-ubyte.gz", marks)
    (root / "svhn").mkdir()
    for half in ("train", "test"):
        images = RNG.integers(0, 256, (32, 32, 3, 60), dtype=np.uint8)
        labels = (np.arange(60) % 10 + 1)[:, None].astype(np.uint8)
        savemat(root / "svhn" / f"{half}_32x32.mat", {"X": images, "y": labels})
    (root / "stl10").mkdir()
    for half in ("train", "test"):
        pixels = RNG.integers(0, 256, (40, 3, 96, 96), dtype=np.uint8)
        (root / "stl10" / f"{half}_X.bin").write_bytes(pixels.tobytes())
        marks = (np.arange(40) % 10 + 1).astype(np.uint8)
        (root / "stl10" / f"{half}_y.bin").write_bytes(marks.tobytes())
    tiny = root / "tiny-imagenet" / "tiny-imagenet-200"
    wnids, lines = [f"n{i:02d}" for i in range(4)], []
    for wnid in wnids:
        for half, count in ((f"train/{wnid}/images", 8), ("val/images", 2)):
            (tiny / half).mkdir(parents=True, exist_ok=True)
            for j in range(count):
                pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tiny / half / f"{wnid}_{j}.png")
                if half.startswith("val"):
                    lines.append(f"{wnid}_{j}.png\t{wnid}\t0\t0\t1\t1")
    (tiny / "wnids.txt").write_text("\n".join(wnids))
    (tiny / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER_SCALE)
def test_two_steps_of_a_papers_recipe(name: str, papers_data: Path, tmp_path: Path) -> None:
    steps = [] if load_recipe(name).attack.kind == "n-fgsm" else ["attack.steps=2"]
    recipe = load_recipe(
        name,
        changes=[
            "train.max_steps=2",
            "train.batch=4",
            "data.calibrate=8",
            "data.verify=false",
            "data.train_images=20",
            "select.images=2",
            "select.steps=1",
            "calibrate_dial=false",
            *steps,
            *([] if name.startswith("rdi") else ["select.robustness=[1.0]"]),
        ],
    )
    done = train(recipe, out=tmp_path, folder=papers_data)
    assert done.progress.step == 2
    first = build(recipe, data.load(recipe.data.name, folder=papers_data, verify=False)[0])
    assert done.model.net.classes == CLASSES[recipe.data.name]
    # The statistics of pixels are those of the training split, which `first` was not built on.
    specs = [{k: v for k, v in m.net.spec.items() if k not in ("mean", "std")} for m in (done.model, first)]
    assert specs[0] == specs[1]
    # Chance costs log(classes) at each head; two steps at a paper's rate leave that order of size.
    heads = len(done.model.read(torch.rand(2, *first.net.image), done.model.resolve(None, torch.rand(2))).exits) or 1
    chance = heads * math.log(done.model.net.classes)
    assert 0.3 * chance < done.progress.epochs[-1]["loss"] < 10 * chance
    start = dict(first.named_parameters())
    still = [n for n, p in done.model.named_parameters() if torch.equal(p, start[n])]
    # Images of some of these files are all alike: behind a norm they are 0, and give its shift no gradient.
    assert all(n.endswith("bias") for n in still)
    assert (tmp_path / "model.safetensors").stat().st_size > (250_000 if name == "fashion-resnet8" else 1_000_000)


def test_there_is_a_recipe_for_every_setting_of_the_papers() -> None:
    assert {
        "oat-cifar10",
        "float-cifar100",
        "oat-svhn",
        "float-stl10",
        "float-tiny-imagenet",
        "rdi-mnist",
        "rdi-cifar10",
        "rdi-cifar10-mobilenet",
    } <= set(PAPER_SCALE)
