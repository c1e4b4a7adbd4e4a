"""Tiny-ImageNet-200: a tree of images, with lists of its classes and validation labels."""

from __future__ import annotations

from pathlib import Path

from rheostat.data.base import DataError, Dataset, Remote, Source, find_file, read_regular, register
from rheostat.data.folders import assembled, image_files

LARGEST = 2**24
"""Size limit of a list, in bytes; the published ones have less than a million."""


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """(train, test): train/WNID/images, and val with val_annotations.txt as the test half."""
    root = folder / "tiny-imagenet-200" if (folder / "tiny-imagenet-200").is_dir() else folder
    names = _lines(find_file(root, "wnids.txt"))
    for name in names:
        if Path(name).name != name:
            raise DataError(f"{root / 'wnids.txt'}: {name!r} is not the name of a folder")
    classes = tuple(sorted(names))
    annotations = find_file(root / "val", "val_annotations.txt")
    place = {name: i for i, name in enumerate(classes)}
    test: list[tuple[Path, int]] = []
    for number, line in enumerate(_lines(annotations), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in place:
            raise DataError(f"{annotations}: line {number} does not name a known class")
        if Path(fields[0]).name != fields[0]:
            raise DataError(f"{annotations}: line {number} does not name a file in the folder images")
        test.append((root / "val" / "images" / fields[0], place[fields[1]]))
    train = image_files(root / "train", classes)
    return assembled("tiny-imagenet", train, classes), assembled("tiny-imagenet", test, classes)


def _lines(path: Path) -> list[str]:
    """The non-empty lines of a list."""
    try:
        return [line for line in read_regular(path, LARGEST).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text") from None


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
