"""Atomic file writes, locks, and safetensors files with JSON metadata."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

HEADER_BYTES = 2**24
"""Maximum bytes of a safetensors header, which holds the names and sizes of the tensors and the metadata."""


class Taken(ValueError):
    """A run cannot use its folder: another process works there, or the files are those of another run."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: into a temporary file, then rename it. Threads and processes may write concurrently."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None  # the error of a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file while it is read, changed and rewritten, against other processes and threads.

    The lock is a file `.NAME.lock` in the same folder. A second caller waits. The lock ends with its process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), thread_local=False, is_singleton=False):
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder; Taken (a ValueError) at once if another process holds it. The lock ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise Taken(
            f"another process is training in {folder}: wait for it, or choose another folder with --out"
        ) from None


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, content.encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write one safetensors file with a JSON object as its metadata, atomically."""
    kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_bytes(path, save(kept, {"rheostat": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read (tensors, metadata) from a file of `write_tensors`; ValueError for any other file."""
    try:
        with path.open("rb") as raw:
            header = int.from_bytes(raw.read(8), "little")
        if header > HEADER_BYTES:
            raise ValueError(f"{path}: not a complete Rheostat file (a header of {header} bytes)")
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("rheostat")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except (SafetensorError, OSError, AttributeError) as error:  # an AttributeError for a type that torch lacks
        raise ValueError(f"{path}: not a complete Rheostat file ({error})") from None
    if about is None:
        raise ValueError(f"{path}: a safetensors file, but not one of Rheostat's")
    return tensors, _object(about, str(path))


def _object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object without duplicate keys; one-line ValueError for anything else."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is given twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not a complete Rheostat file (its metadata: {error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: not a complete Rheostat file (its metadata is not a JSON object)")
    return found
