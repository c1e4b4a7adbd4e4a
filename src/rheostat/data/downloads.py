"""Checksummed downloads into a cache, and checks of files that are already there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from rheostat.data.base import DataError, Remote


def download(remotes: Iterable[Remote], folder: Path) -> None:
    """Fetch published files into a new folder, checked and unpacked; DataError if it fails.

    They are fetched beside it and the folder appears when all are there, so that a download that failed is
    tried again; files that have arrived are kept.
    """
    import pooch

    part = folder.with_name(f"{folder.name}.part")
    for remote in remotes:
        processor = {"tar": pooch.Untar(extract_dir="."), "zip": pooch.Unzip(extract_dir=".")}.get(remote.unpack)
        try:
            pooch.retrieve(
                remote.url, known_hash=f"md5:{remote.md5}", path=part, fname=remote.name, processor=processor
            )
        except Exception as error:  # network, disk and checksum errors of many kinds
            raise DataError(f"could not download {remote.url}: {error}") from None
    part.replace(folder)


def verify_files(sums: Mapping[str, str], folder: Path) -> None:
    """Compare the files that are there with their published md5; DataError names the first that differs."""
    for file, expected in sums.items():
        path = folder / file
        if not path.is_file():
            continue
        given = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if given != expected:
            raise DataError(
                f"{path}: md5 {given}, expected {expected} (damaged, or not the published file; "
                "--no-verify reads it all the same)"
            )
