"""Files written whole or not at all, by one process a folder; safetensors with JSON metadata."""

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


def write_bytes(path: Path, content: bytes) -> None:
    """Write through a temporary file beside it, then rename. Several threads and processes may write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold one file while it is read, changed and rewritten: among processes, and among threads.

    The lock is a file `.NAME.lock` beside it; whoever comes second waits. Death releases it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), thread_local=False, is_singleton=False):
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; ValueError at once where another holds it. Death releases it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another process is training in {folder}: wait for it, or name another folder by --out"
        ) from None


def write_text(path: Path, content: str) -> None:
    """Write a text file whole."""
    write_bytes(path, content.encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """One safetensors file with a JSON object as its metadata."""
    kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_bytes(path, save(kept, {"rheostat": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, metadata) of a file of `write_tensors`; ValueError on anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("rheostat")
            if about is None:
                raise ValueError(f"{path}: a safetensors file, but not one of Rheostat's")
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(about)  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole Rheostat file ({error})") from None
