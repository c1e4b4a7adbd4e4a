"""SVHN (.mat), STL-10 (binary), Tiny-ImageNet and any class-per-folder image tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import DataError, Dataset, expect_size, find
from rheostat.data.images import read_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def svhn(folder: Path, verify: bool) -> tuple[Dataset, Dataset]:
    """SVHN, cropped digits (Netzer et al. 2011): train_32x32.mat, test_32x32.mat; label 10 is 0."""
    from scipy.io import loadmat

    halves = []
    for name in ("train_32x32.mat", "test_32x32.mat"):
        path = find(folder, name)
        try:
            found = loadmat(str(path), variable_names=["X", "y"])
        except Exception as error:  # scipy raises many kinds on a damaged file
            raise DataError(f"{path}: not a whole .mat file ({error})") from None
        images, labels = found.get("X"), found.get("y")
        if images is None or labels is None:
            raise DataError(f"{path}: no variables 'X' and 'y'")
        if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
            raise DataError(f"{path}: 'X' is {images.shape} {images.dtype}, expected (32, 32, 3, N) uint8")
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
        marks = torch.from_numpy(labels.reshape(-1).astype(np.int64)) % 10
        halves.append(Dataset("svhn", pixels, marks, tuple(str(i) for i in range(10))))
    return halves[0], halves[1]


def stl10(folder: Path, verify: bool) -> tuple[Dataset, Dataset]:
    """STL-10 (Coates et al. 2011): train 5 000 and test 8 000 labelled images of 96×96, column-major."""
    inside = folder / "stl10_binary" if (folder / "stl10_binary").is_dir() else folder
    halves = []
    for half in ("train", "test"):
        path, marks_path = find(inside, f"{half}_X.bin"), find(inside, f"{half}_y.bin")
        raw = np.fromfile(path, np.uint8)
        marks = np.fromfile(marks_path, np.uint8)
        if not marks.size or marks.min() < 1 or marks.max() > 10:
            raise DataError(f"{marks_path}: labels must be from 1 to 10")
        expect_size(path, raw.size, marks.size * 3 * 96 * 96)
        columns = torch.from_numpy(raw).reshape(-1, 3, 96, 96)
        halves.append(
            Dataset("stl10", columns.transpose(2, 3).contiguous(), torch.from_numpy(marks.astype(np.int64) - 1), STL10)
        )
    return halves[0], halves[1]


def _assembled(name: str, files: list[tuple[Path, int]], classes: tuple[str, ...]) -> Dataset:
    if not files:
        raise DataError(f"{name}: no images found")
    images: list[torch.Tensor] = []
    for path, _ in files:
        image = read_image(path)
        if images and image.shape != images[0].shape:
            raise DataError(f"{path}: {tuple(image.shape)}, expected {tuple(images[0].shape)} as {files[0][0].name}")
        images.append(image)
    return Dataset(name, torch.stack(images), torch.tensor([label for _, label in files]), classes)


def _tree(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [
        (path, i)
        for i, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]


def folders(folder: Path, verify: bool) -> tuple[Dataset, Dataset]:
    """Any tree train/CLASS/*.png and test/CLASS/*.png (or val/): all images of one size, RGB."""
    train = folder / "train"
    test = next((folder / n for n in ("test", "val") if (folder / n).is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(f"{folder}: expected the folders train/ and test/ (or val/)")
    classes = tuple(sorted(p.name for p in train.iterdir() if p.is_dir()))
    strange = sorted({p.name for p in test.iterdir() if p.is_dir()} - set(classes))
    if strange:
        raise DataError(f"{test}: class {strange[0]!r} is not in {train}")
    name = folder.name
    return _assembled(name, _tree(train, classes), classes), _assembled(name, _tree(test, classes), classes)


def tiny_imagenet(folder: Path, verify: bool) -> tuple[Dataset, Dataset]:
    """Tiny-ImageNet-200: train/WNID/images, val with val_annotations.txt as the test half."""
    root = folder / "tiny-imagenet-200" if (folder / "tiny-imagenet-200").is_dir() else folder
    names = find(root, "wnids.txt").read_text().split()
    classes = tuple(sorted(names))
    annotations = find(root / "val", "val_annotations.txt")
    place = {name: i for i, name in enumerate(classes)}
    test: list[tuple[Path, int]] = []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in place:
            raise DataError(f"{annotations}: line {number} names no known class")
        test.append((root / "val" / "images" / fields[0], place[fields[1]]))
    train = _tree(root / "train", classes)
    return _assembled("tiny-imagenet", train, classes), _assembled("tiny-imagenet", test, classes)
