"""Checksummed downloads into a cache, and checks of files that are already there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from rheostat.data.base import DataError, Remote
from rheostat.runtime.files import locked


def download(remotes: Iterable[Remote], folder: Path) -> None:
    """Fetch published files into a new folder, checked and unpacked; DataError if it fails.

    They come into a folder beside it, which gets its name when all are there. Files that came before a
    failure are kept for the next try. One process downloads, others wait for it.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with locked(folder):
        if present(folder):
            return
        for remote in remotes:
            _fetch(remote, partial)
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)


def present(folder: Path) -> bool:
    """Whether a data set's folder is there and holds something: an empty one is what a failure left."""
    return folder.is_dir() and any(folder.iterdir())


def _fetch(remote: Remote, folder: Path) -> None:
    import pooch

    processor = {"tar": pooch.Untar(extract_dir="."), "zip": pooch.Unzip(extract_dir=".")}.get(remote.unpack)
    try:
        pooch.retrieve(remote.url, known_hash=f"md5:{remote.md5}", path=folder, fname=remote.name, processor=processor)
    except Exception as error:  # network, disk and checksum errors of many kinds
        raise DataError(f"could not download {remote.url}: {error}; the next call tries again") from None


def verify_files(sums: Mapping[str, str], folder: Path) -> None:
    """Compare the files that are there with their published md5; DataError names the first that differs."""
    for file, expected in sums.items():
        if (folder / file).is_file():
            check_md5(folder / file, (folder / file).read_bytes(), expected)


def check_md5(path: Path, raw: bytes, expected: str) -> None:
    """DataError that names the file unless its bytes have the published md5."""
    given = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if given != expected:
        raise DataError(
            f"{path}: md5 {given}, expected {expected} (damaged, or not the published file; "
            "--no-verify reads it all the same)"
        )
