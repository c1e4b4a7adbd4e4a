"""Any class-per-folder image tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from rheostat.data.base import DataError, Dataset
from rheostat.data.images import read_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def memory() -> int:
    """Bytes of memory of this machine; where it does not say, none is too much."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return sys.maxsize


def assembled(name: str, files: list[tuple[Path, int]], classes: tuple[str, ...]) -> Dataset:
    """A data set from image files and their labels; DataError names the first of another size."""
    if not files:
        raise DataError(f"{name}: no images found")
    images: list[torch.Tensor] = []
    for path, _ in files:
        image = read_image(path)
        if images and image.shape != images[0].shape:
            raise DataError(f"{path}: {tuple(image.shape)}, expected {tuple(images[0].shape)} as {files[0][0].name}")
        if not images and image.numel() * len(files) > memory():
            raise DataError(
                f"{name}: {len(files)} images of {image.numel()} bytes, more than the memory of this machine"
            )
        images.append(image)
    return Dataset(name, torch.stack(images), torch.tensor([label for _, label in files]), classes)


def image_files(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The images below root/CLASS, in order, each with the number of its class."""
    return [
        (path, i)
        for i, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]


def read(folder: Path) -> tuple[Dataset, Dataset]:
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
    return assembled(name, image_files(train, classes), classes), assembled(name, image_files(test, classes), classes)
