"""Downloads into a cache with checksums, and checksums of existing files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from rheostat.data.base import DataError, Remote
from rheostat.runtime.files import locked


def download(remotes: Iterable[Remote], folder: Path) -> None:
    """Download, check and unpack published files into a new folder; raises DataError on failure.

    The files go to a temporary folder beside it, which is renamed once it is complete. After a failure the
    next call reuses the files already downloaded. One process downloads; others wait for it.
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
    """Whether a data set's folder exists and is not empty; a failure may leave an empty one."""
    return folder.is_dir() and any(folder.iterdir())


def _fetch(remote: Remote, folder: Path) -> None:
    import pooch

    processor = {"tar": pooch.Untar(extract_dir="."), "zip": pooch.Unzip(extract_dir=".")}.get(remote.unpack)
    try:
        pooch.retrieve(remote.url, known_hash=f"md5:{remote.md5}", path=folder, fname=remote.name, processor=processor)
    except Exception as error:  # network, disk and checksum errors of many kinds
        raise DataError(f"could not download {remote.url}: {error}; the next call tries again") from None


def verify_files(sums: Mapping[str, str], folder: Path) -> None:
    """Compare existing files with their published md5; raises DataError that names the first that differs."""
    for file, expected in sums.items():
        if (folder / file).is_file():
            check_md5(folder / file, (folder / file).read_bytes(), expected)


def check_md5(path: Path, raw: bytes, expected: str) -> None:
    """Raise DataError that names the file unless its bytes have the published md5."""
    given = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if given != expected:
        raise DataError(
            f"{path}: md5 {given}, expected {expected} (damaged, or not the published file; "
            "--no-verify skips this check)"
        )
