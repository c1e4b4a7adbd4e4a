"""Images of any size and mode: one rule, stated, bounded in memory; folders that are held or read one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rheostat
from rheostat import data
from rheostat.data import DataError, Preprocessing, folders
from rheostat.data.images import RESIZES, fitted, read_image


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A ramp from left to right, its green one from top to bottom."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, 255 - across], 2).round().astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def tree(root: Path) -> Path:
    """Photos of several sizes, modes and formats, two classes."""
    kinds = [(60, 40, "RGB", "a.jpg"), (33, 90, "L", "b.png"), (48, 48, "RGBA", "c.png"), (20, 25, "P", "d.gif")]
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / half / name
            folder.mkdir(parents=True)
            for width, height, mode, file in kinds:
                picture(width, height, mode).save(folder / file)
    return root


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_any_tree_becomes_one_shape(tmp_path: Path, resize: str, mode: str) -> None:
    rule = Preprocessing(size=(24, 32), resize=resize, mode=mode)
    train, test = data.load(f"folder:{tree(tmp_path)}", preprocessing=rule)
    assert train.image == rule.image == (3 if mode == "RGB" else 1, 24, 32)
    assert (len(train), len(test), train.classes) == (8, 8, ("cat", "dog"))
    assert (train.preprocessing, train.split, test.split) == (rule, "train", "test")
    folder, _ = data.read_folder(tmp_path, rule, in_memory=False)
    for i in range(len(folder)):
        assert torch.equal(folder[i][0], train.images[i])
        assert folder[i][1] == train.labels[i]


def test_the_rules_are_what_they_say() -> None:
    image = picture(300, 100)
    middle = np.asarray(fitted(image, 50, 50, "crop"), dtype=float)
    whole = np.asarray(fitted(image, 50, 50, "stretch"), dtype=float)
    padded = np.asarray(fitted(image, 50, 50, "pad"), dtype=float)
    # The centred third of the ramp from 0 to 255.
    assert middle[:, 0, 0].mean() == pytest.approx(85, abs=3)
    assert middle[:, -1, 0].mean() == pytest.approx(170, abs=3)
    assert whole[:, 0, 0].mean() == pytest.approx(2.5, abs=2)
    assert whole[:, -1, 0].mean() == pytest.approx(252.5, abs=2)
    assert (padded[:16] == 0).all()
    assert (padded[-16:] == 0).all()
    assert padded[16:33, 25].mean(0) == pytest.approx([127.5, 127.5, 127.5], abs=5)
    assert fitted(image, 300, 100, "crop") is image


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than a pixel become grey, not stripes of another width."""
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (96, 48)))
    for resize in RESIZES:
        small = np.asarray(fitted(stripes, 12, 12, resize), dtype=float)
        assert small.std() < 5, resize


def test_a_long_thin_image_needs_the_memory_of_the_result(monkeypatch) -> None:
    asked: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(self, size, *more, **options):
        asked.append(size)
        return resize(self, size, *more, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    for size in ((1, 200_000), (200_000, 1)):
        for rule in RESIZES:
            assert fitted(Image.new("L", size), 32, 16, rule).size == (32, 16)
    assert all(width * height <= 32 * 16 for width, height in asked)


def test_a_cameras_mpo_is_its_photo_and_floats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture(16, 16).save(path, format="MPO", save_all=True, append_images=[picture(8, 8)])
    assert read_image(path).shape == (3, 16, 16)
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"b\.tif: not a readable image \(32-bit pixels"):
        read_image(tmp_path / "b.tif")


def test_a_rule_is_checked() -> None:
    assert Preprocessing([4, 5]) == Preprocessing((4, 5), resize="crop", mode="RGB")
    for wrong in ((0, 5), (5,), (5, 5000), (5.0, 5)):
        with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
            Preprocessing(wrong)
    with pytest.raises(ValueError, match="no resize 'croped'; did you mean 'crop'"):
        Preprocessing((4, 4), resize="croped")
    with pytest.raises(ValueError, match="no mode 'grey'"):
        Preprocessing((4, 4), mode="grey")


def test_mixed_sizes_without_a_rule_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"preprocessing=data\.Preprocessing\(size=\(H, W\)\)"):
        data.load(f"folder:{tree(tmp_path)}")


def test_a_registered_set_takes_a_rule_as_well() -> None:
    train, _ = data.load("digits", preprocessing=Preprocessing((16, 12), mode="RGB"))
    assert train.image == (3, 16, 12)
    assert torch.equal(train.images[:, 0], train.images[:, 2])


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path: Path) -> None:
    rule = Preprocessing((12, 12))
    train, test = data.read_folder(tree(tmp_path), rule)
    for half in ("train", "test"):
        for place in (tmp_path / half / ".ipynb_checkpoints", tmp_path / half / "dog" / ".ipynb_checkpoints"):
            place.mkdir()
            Image.new("RGB", (12, 12)).save(place / "1.png")
        (tmp_path / half / "dog" / "._1.png").write_bytes(b"macOS")
    again, second = data.read_folder(tmp_path, rule)
    assert again.classes == ("cat", "dog")
    assert torch.equal(again.labels, train.labels)
    assert torch.equal(second.labels, test.labels)
    (tmp_path / "train" / "bird").mkdir()
    with pytest.raises(DataError, match="no images of class 'bird'"):
        data.read_folder(tmp_path, rule)


def test_no_validation_images_are_held_out_from_the_test_split(tmp_path: Path) -> None:
    _, test = data.read_folder(tree(tmp_path), Preprocessing((12, 12)), in_memory=False)
    assert isinstance(test, data.ImageFolder)
    with pytest.raises(ValueError, match="this is the test split"):
        test.held_out(2)
    with pytest.raises(ValueError, match="this is the test split"):
        test.only(torch.arange(2)).held_out(1)


def test_large_trees_are_read_one_by_one_and_fit_takes_them(tmp_path: Path, monkeypatch) -> None:
    rule = Preprocessing((12, 12))
    small, _ = data.read_folder(tree(tmp_path / "tree"), rule)
    assert isinstance(small, data.Dataset)
    monkeypatch.setattr(folders, "HELD", 1000)
    train, test = data.read_folder(tmp_path / "tree", rule)
    assert isinstance(train, data.ImageFolder)
    rest, validation = train.held_out(4)
    assert sorted([*rest.files, *validation.files]) == sorted(train.files)
    assert validation.labels.bincount().tolist() == [2, 2]
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    model = rheostat.adopt(torch.nn.Sequential(net, head), "dual", image=(3, 12, 12))
    few = {"attack": {"steps": 1}, "select": {"images": 4, "steps": 1}, "calibrate_dial": False, "device": "cpu"}
    run = rheostat.fit(model, rest, validation, eps="8/255", epochs=1, batch=2, out=tmp_path / "run", **few)
    assert run.form.classes == ("cat", "dog")
    with pytest.raises(ValueError, match="test split"):
        rheostat.fit(model, test, validation, eps="8/255", epochs=1, batch=2, out=tmp_path / "other", **few)
    with pytest.raises(ValueError, match="test split"):
        rheostat.fit(model, rest, test, eps="8/255", epochs=1, batch=2, out=tmp_path / "other", **few)
