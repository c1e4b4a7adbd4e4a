"""Models that are too large for the package: fetched once, with a checksum, into a cache."""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rheostat.runtime.files import locked

if TYPE_CHECKING:
    from rheostat.models.zoo import Shipped

ADDRESS, CACHE = "RHEOSTAT_MODELS_URL", "RHEOSTAT_CACHE"
"""Environment variables: the address of a mirror, and the folder of the cache."""
LABEL = "Models"
"""The address among the project's URLs (pyproject.toml) under which the files of `models/` are."""
SECONDS = 30
"""Seconds without an answer after which a server counts as absent."""


def cache_folder() -> Path:
    """The folder that fetched models are kept in: that of `RHEOSTAT_CACHE`, or the user's cache of this system."""
    if given := os.environ.get(CACHE):
        return Path(given) / "models"
    import pooch

    return Path(pooch.os_cache("rheostat")) / "models"


def address() -> str | None:
    """Where the files are: `RHEOSTAT_MODELS_URL`, else the project's own URL; None where neither is given."""
    if given := os.environ.get(ADDRESS):
        return given
    try:
        urls = metadata.metadata("rheostat").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return None
    named = dict(str(url).split(", ", 1) for url in urls)
    return named.get(LABEL)


def fetch(entry: Shipped) -> Path:
    """The local file of a model that does not come with the package; fetched where it is not there or is damaged.

    ValueError in one line where it cannot be fetched; nothing is kept of a download that fails or is another file.
    One process downloads, and others wait for it.
    """
    path = entry.path
    try:
        with locked(path):
            if not (path.is_file() and sha256(path) == entry.sha256):
                _retrieve(entry, path)
    except (ValueError, OSError) as error:  # pooch raises a ValueError for another checksum; requests' are OSErrors
        raise ValueError(f"{entry.name} could not be fetched: {_why(error)}; {_by_hand(entry)}") from None
    return path


class _NoAddress(ValueError):
    """Nothing says where the files are."""


def _retrieve(entry: Shipped, path: Path) -> None:
    import pooch

    base = address()
    if base is None:
        raise _NoAddress(f"no address is known ({ADDRESS} is not set)")
    pooch.retrieve(
        f"{base.rstrip('/')}/{entry.file}",
        known_hash=f"sha256:{entry.sha256}",
        path=path.parent,
        fname=path.name,
        downloader=pooch.HTTPDownloader(timeout=SECONDS),
    )


def _why(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, _NoAddress):
        return str(error)
    if isinstance(error, ValueError) and not isinstance(error, OSError):  # requests' of an address are both
        return "what came is not the published file (its sha256 differs), and was not kept"
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"the server answers {answer.status_code}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"no answer in {SECONDS} seconds"
    if kind == "ConnectionError":
        return "no connection (is this machine offline?)"
    if kind == "ChunkedEncodingError":
        return "the connection broke off"
    return f"{kind}: {' '.join(str(error).split())[:100]}"


def _by_hand(entry: Shipped) -> str:
    """What to do where nothing can be fetched."""
    return (
        f"try again online, or copy {entry.file} (sha256 {entry.sha256[:12]}…) from models/ of the repository to "
        f"{entry.path.parent}"
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
