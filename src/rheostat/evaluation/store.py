"""Finished chunks of an evaluation on disk, so that a killed one continues and ranks share the work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from rheostat.runtime.files import read_tensors, write_tensors, write_text
from rheostat.runtime.seeding import seed_of

FOLDER = "unfinished"


class Journal:
    """A folder with one file per finished chunk; its name is a hash of everything that is measured."""

    def __init__(self, beside: Path, run: str, about: dict[str, object]) -> None:
        text = json.dumps(about, sort_keys=True)
        self.root = beside / FOLDER
        self.folder = self.root / f"{seed_of(text):016x}"
        self.run = run
        self.subject = {"run": run, "artifact": about["artifact"], "data": about["data"]}

    def open(self) -> None:
        """Make the folder. ValueError if an unfinished evaluation of this run was of another model."""
        for other in sorted(self.root.glob("*/about.json")):
            found = json.loads(other.read_text())
            if found["run"] == self.run and found != self.subject:
                what = "model" if found["artifact"] != self.subject["artifact"] else "data"
                raise ValueError(
                    f"{other.parent} is an unfinished evaluation of {self.run!r} on another {what} "
                    f"({found['artifact']} on {found['data']}); --fresh drops it"
                )
        write_text(self.folder / "about.json", json.dumps(self.subject))

    def drop(self) -> None:
        """Forget every unfinished evaluation of this run."""
        for other in self.root.glob("*/about.json"):
            if json.loads(other.read_text())["run"] == self.run:
                shutil.rmtree(other.parent)

    def _file(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}.safetensors"

    def has(self, number: int) -> bool:
        """Whether a chunk is finished."""
        return self._file(number).is_file()

    def write(self, number: int, record: dict[str, torch.Tensor]) -> None:
        """Keep a finished chunk, whole or not at all."""
        write_tensors(self._file(number), record, {"chunk": number})

    def read(self, number: int) -> dict[str, torch.Tensor]:
        """A finished chunk."""
        return read_tensors(self._file(number))[0]

    def close(self) -> None:
        """The rows are written: the chunks are not needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()
