"""Models that are too large for the package: fetched once, with a checksum, into a cache."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from rheostat.runtime.files import locked

if TYPE_CHECKING:
    from rheostat.models.zoo import Shipped

ADDRESS, CACHE = "RHEOSTAT_MODELS_URL", "RHEOSTAT_CACHE"
"""Environment variables: the address of a mirror, and the folder of the cache."""
LABEL = "Models"
"""The address among the project's URLs (pyproject.toml) under which the files of `models/` are."""
CHUNK = 2**16
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
    """The local file of a model that does not come with the package; fetched if it is not there or is damaged.

    ValueError in one line where it cannot be fetched; nothing is kept of a download that fails or is another file.
    One process downloads, and others wait for it.
    """
    if (own := entry.source) is not None:  # of the user's source tree: it is read, and never written
        if sha256(own) != entry.sha256:
            raise ValueError(f"{own} is not the published file (its sha256 differs); restore it, or move it elsewhere")
        return own
    path = entry.cached
    try:
        with locked(path):
            if not (path.is_file() and sha256(path) == entry.sha256):
                _retrieve(entry, path)
    except (ValueError, OSError, HTTPException) as error:
        raise ValueError(f"{entry.name} could not be fetched: {_why(error)}; {_by_hand(entry)}") from None
    return path


class _Reason(ValueError):
    """Why nothing could be fetched, in words for the user."""


def _retrieve(entry: Shipped, path: Path) -> None:
    """Download through a temporary file beside it, compare its hash, and give it its name: pooch does these."""
    import pooch

    base = address()
    if base is None:
        raise _Reason(f"no address is known ({ADDRESS} is not set)")
    if urlsplit(base).scheme not in ("http", "https"):
        raise _Reason(f"{ADDRESS} is no web address: {base[:100]!r}")

    def download(url: str, file: str, _: object) -> None:
        _download(url, Path(file), entry.bytes)

    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel("WARNING")  # its lines say what ours say
    try:
        pooch.retrieve(
            f"{base.rstrip('/')}/{entry.file}",
            known_hash=f"sha256:{entry.sha256}",
            path=path.parent,
            fname=path.name,
            downloader=download,
        )
    finally:
        logger.setLevel(before)


def _download(url: str, file: Path, size: int) -> None:
    """Write what an address answers into a file, at most one byte more than it should be."""
    try:
        with urlopen(url, timeout=SECONDS) as answer, file.open("wb") as out:
            while out.tell() <= size and (part := answer.read(min(CHUNK, size + 1 - out.tell()))):
                out.write(part)
            if out.tell() < size:
                raise _Reason(f"the connection broke off after {out.tell()} of {size} bytes")
    except HTTPError as error:
        error.close()
        raise


def _why(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, _Reason):
        return str(error)
    if isinstance(error, ValueError):  # what pooch raises for another hash
        return "what came is not the published file (its sha256 differs), and was not kept"
    if isinstance(error, HTTPError):
        return f"the server answers {error.code}"
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return f"no answer in {SECONDS} seconds"
    if isinstance(error, URLError):
        return "no connection (is this machine offline?)"
    if isinstance(error, HTTPException | ConnectionError):
        return "the connection broke off"
    return " ".join(str(error).split())[:200]  # the disk: its file and what is wrong with it


def _by_hand(entry: Shipped) -> str:
    """What to do where nothing can be fetched."""
    return (
        f"try again online, or copy {entry.file} (sha256 {entry.sha256[:12]}…) from models/ of the repository to "
        f"{entry.cached.parent}"
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
