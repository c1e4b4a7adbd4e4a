"""Image trees with one folder per class: held in memory as uint8, or read image by image if they are large."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rheostat.data.base import DataError, Dataset, check_choosable
from rheostat.data.images import read_image
from rheostat.data.preprocessing import Preprocessing
from rheostat.data.splits import stratified

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
HELD = 2**30
"""The most bytes of uint8 images that `read_folder` holds in memory; larger trees are read image by image."""
HINT = "resize all images: preprocessing=data.Preprocessing(size=(H, W)), or data.size in a recipe"


@dataclass(frozen=True)
class ImageFolder:
    """Images on disk, read one by one; pass it to `fit` if a tree does not fit in memory.

    `folder[i]` is (image (C, H, W) uint8, label). `files` are the paths; `labels` (N,) int64 are class indices.
    """

    name: str
    files: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    split: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocessing.read(self.files[index]), int(self.labels[index])

    @property
    def image(self) -> tuple[int, int, int]:
        """The shape of one image, (C, H, W)."""
        return self.preprocessing.image

    def only(self, rows: Tensor) -> ImageFolder:
        """The given rows; `rows` (n,) is an int64 index."""
        return replace(self, files=tuple(self.files[i] for i in rows.tolist()), labels=self.labels[rows])

    def held_out(self, count: int, *, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
        """(the rest, `count` images for validation), a stratified split determined by `seed`.

        Raises ValueError for the test split, or unless `count` is from 1 to len(self) - 1.
        """
        check_choosable(self.name, self.split)
        if not 0 < count < len(self):
            raise ValueError(f"{self.name}: the held-out count must be from 1 to {len(self) - 1}, given {count}")
        kept, out = stratified(self.labels, (len(self) - count, count), seed=seed)
        return self.only(kept), replace(self.only(out), split="calibrate-fit")

    def held(self) -> Dataset:
        """All images in memory; raises DataError if there are none or they do not fit."""
        if not len(self):
            raise DataError(f"{self.name}: no images found")
        needed = self.preprocessing.pixels_of(len(self))
        if needed > memory():
            raise DataError(f"{self.name}: {len(self)} images of {needed // len(self)} bytes {TOO_MUCH}")
        images = torch.empty(len(self), *self.image, dtype=torch.uint8)
        for i, path in enumerate(self.files):
            images[i] = self.preprocessing.read(path)
        return Dataset(self.name, images, self.labels, self.classes, self.split, self.preprocessing)


TOO_MUCH = "exceed the memory of this machine; data.read_folder(PATH, ...) lets fit read them one by one"


def memory() -> int:
    """Memory of this machine in bytes, or `sys.maxsize` if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return sys.maxsize


def assembled(name: str, files: list[tuple[Path, int]], classes: tuple[str, ...]) -> Dataset:
    """A data set from RGB image files of one size and their labels; raises DataError that names one of another size."""
    if not files:
        raise DataError(f"{name}: no images found")
    images: list[Tensor] = []
    for path, _ in files:
        image = read_image(path)
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{path}: {tuple(image.shape)}, expected {tuple(images[0].shape)} like {files[0][0].name}; {HINT}"
            )
        if not images and image.numel() * len(files) > memory():
            raise DataError(f"{name}: {len(files)} images of {image.numel()} bytes {TOO_MUCH}")
        images.append(image)
    return Dataset(name, torch.stack(images), torch.tensor([label for _, label in files]), classes)


def image_files(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The images below root/CLASS, sorted, each with the index of its class, without those of a hidden name."""
    return [
        (path, i)
        for i, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and not hidden(path.relative_to(root))
    ]


def hidden(path: Path) -> bool:
    """Whether a part of the path begins with a dot, such as `.ipynb_checkpoints` of Jupyter, or `._x.jpg` of macOS."""
    return any(part.startswith(".") for part in path.parts)


def _class_names(half: Path) -> set[str]:
    return {p.name for p in half.iterdir() if p.is_dir() and not hidden(Path(p.name))}


def _halves(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]], list[tuple[Path, int]]]:
    """(classes, train files, test files) of a tree."""
    train = folder / "train"
    test = next((folder / n for n in ("test", "val") if (folder / n).is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(f"{folder}: expected the folders train/ and test/ (or val/)")
    classes = tuple(sorted(_class_names(train)))
    strange = sorted(_class_names(test) - set(classes))
    if strange:
        raise DataError(f"{test}: class {strange[0]!r} is not in {train}")
    files = image_files(train, classes)
    empty = sorted(set(range(len(classes))) - {label for _, label in files})
    if empty and files:
        raise DataError(f"{train}: no images of class {classes[empty[0]]!r}; add some, or remove the folder")
    return classes, files, image_files(test, classes)


def train_names(folder: Path) -> list[str]:
    """The training images of a tree, each as CLASS/FILE, in their order."""
    return [path.relative_to(folder / "train").as_posix() for path, _ in _halves(folder)[1]]


def read(folder: Path, preprocessing: Preprocessing | None = None) -> tuple[Dataset, Dataset]:
    """(train, test) in memory, of a tree train/CLASS/*.png and test/CLASS/*.png (or val/).

    Without preprocessing the images are read as RGB and must all have one size.
    """
    if preprocessing is not None:
        train, test = streamed(folder, preprocessing)
        return train.held(), test.held()
    classes, train_files, test_files = _halves(folder)
    return assembled(folder.name, train_files, classes), assembled(folder.name, test_files, classes)


def streamed(folder: Path, preprocessing: Preprocessing) -> tuple[ImageFolder, ImageFolder]:
    """(train, test) of a tree; an image is read when it is accessed."""
    classes, *halves = _halves(folder)
    train, test = (
        ImageFolder(
            folder.name,
            tuple(path for path, _ in files),
            torch.tensor([label for _, label in files], dtype=torch.int64),
            classes,
            preprocessing,
            split,
        )
        for files, split in zip(halves, ("train", "test"), strict=True)
    )
    return train, test


def read_folder(
    folder: str | Path, preprocessing: Preprocessing, *, in_memory: bool | None = None
) -> tuple[Dataset, Dataset] | tuple[ImageFolder, ImageFolder]:
    """(train, test) of a tree train/CLASS, test/CLASS (or val/) with images of any size and mode, resized by a rule.

    By default the images are held in memory as uint8 if both halves together take at most 1 GiB, and are read one by
    one otherwise; `in_memory` overrides this. `fit` accepts both. Raises DataError that names a missing or unreadable
    file.
    """
    train, test = streamed(Path(folder), preprocessing)
    small = preprocessing.pixels_of(len(train) + len(test)) <= HELD
    if small if in_memory is None else in_memory:
        return train.held(), test.held()
    return train, test
