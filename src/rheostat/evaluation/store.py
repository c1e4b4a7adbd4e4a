"""Storage of finished chunks, so that a killed evaluation continues and ranks share the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from rheostat.runtime.files import read_tensors, write_tensors, write_text
from rheostat.runtime.seeding import seed_of

FOLDER = "unfinished"


class ChunkStore:
    """A folder with one file per finished chunk; its name is a hash of everything that is measured.

    Every evaluation therefore has a separate folder: it continues its own work and does not affect others.
    """

    def __init__(self, beside: Path, about: Mapping[str, object]) -> None:
        self.about = json.dumps(about, sort_keys=True)
        self.root = beside / FOLDER
        self.folder = self.root / f"{seed_of(self.about):016x}"

    def open(self) -> None:
        """Create the folder, with a description of the evaluation."""
        write_text(self.folder / "about.json", self.about)

    def _file(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}.safetensors"

    def has(self, number: int) -> bool:
        """Whether a chunk is finished."""
        return self._file(number).is_file()

    def count(self) -> int:
        """The number of finished chunks."""
        return len(list(self.folder.glob("chunk-*.safetensors")))

    def write(self, number: int, record: dict[str, torch.Tensor]) -> None:
        """Store a finished chunk atomically."""
        write_tensors(self._file(number), record, {"chunk": number})

    def read(self, number: int) -> dict[str, torch.Tensor]:
        """A finished chunk."""
        return read_tensors(self._file(number))[0]

    def drop(self) -> None:
        """Delete the chunks of this evaluation."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()
