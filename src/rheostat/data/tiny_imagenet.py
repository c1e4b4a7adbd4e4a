"""Tiny-ImageNet-200: a tree of images with lists of its own."""

from __future__ import annotations

from pathlib import Path

from rheostat.data.base import DataError, Dataset, Remote, Source, find_file, register
from rheostat.data.folders import assembled, image_files


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """Train from train/WNID/images, val with val_annotations.txt as the test half."""
    root = folder / "tiny-imagenet-200" if (folder / "tiny-imagenet-200").is_dir() else folder
    names = find_file(root, "wnids.txt").read_text().split()
    classes = tuple(sorted(names))
    annotations = find_file(root / "val", "val_annotations.txt")
    place = {name: i for i, name in enumerate(classes)}
    test: list[tuple[Path, int]] = []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in place:
            raise DataError(f"{annotations}: line {number} names no known class")
        test.append((root / "val" / "images" / fields[0], place[fields[1]]))
    train = image_files(root / "train", classes)
    return assembled("tiny-imagenet", train, classes), assembled("tiny-imagenet", test, classes)


register(
    "tiny-imagenet",
    Source(
        read,
        image=(3, 64, 64),
        classes=200,
        remotes=(
            Remote("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", "zip"),
        ),
    ),
)
