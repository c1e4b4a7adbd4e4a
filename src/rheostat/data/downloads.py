"""Checksummed downloads into a cache, and checks of files that are already there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rheostat.data.base import DataError


@dataclass(frozen=True)
class Remote:
    """A published file: where it is, its md5, and whether it is an archive to unpack."""

    url: str
    md5: str
    unpack: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]


def _idx(base: str, sums: tuple[str, str, str, str]) -> tuple[Remote, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(Remote(f"{base}/{n}-ubyte.gz", s) for n, s in zip(names, sums, strict=True))


REMOTES: dict[str, tuple[Remote, ...]] = {
    "mnist": _idx(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": _idx(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "cifar10": (
        Remote("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "tar"),
    ),
    "cifar100": (
        Remote("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "tar"),
    ),
    "svhn": (
        Remote("http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        Remote("http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
    ),
    "stl10": (
        Remote("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb", "tar"),
    ),
    "tiny-imagenet": (
        Remote("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", "zip"),
    ),
}
# The md5 of the batches of the python versions, of the archives that the same page publishes.
CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR100_BATCHES = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


def download(name: str, folder: Path) -> None:
    """Fetch a data set's published files into the folder, checked and unpacked; DataError if it fails."""
    import pooch

    for remote in REMOTES[name]:
        processor = {"tar": pooch.Untar(extract_dir="."), "zip": pooch.Unzip(extract_dir=".")}.get(remote.unpack)
        try:
            pooch.retrieve(
                remote.url, known_hash=f"md5:{remote.md5}", path=folder, fname=remote.name, processor=processor
            )
        except Exception as error:  # network, disk and checksum errors of many kinds
            raise DataError(f"could not download {remote.url}: {error}") from None


def verify_files(name: str, folder: Path) -> None:
    """Compare every file that has a published checksum with it; DataError names the first that differs.

    The batches of CIFAR's python version are compared by their reader, as it reads them.
    """
    for remote in REMOTES.get(name, ()):
        path = folder / remote.name
        if not remote.unpack and path.is_file():
            check_md5(path, path.read_bytes(), remote.md5)


def check_md5(path: Path, raw: bytes, expected: str) -> None:
    """DataError that names the file unless its bytes have the published md5."""
    given = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if given != expected:
        raise DataError(
            f"{path}: md5 {given}, expected {expected} (damaged, or not the published file; "
            "--no-verify reads it all the same)"
        )
