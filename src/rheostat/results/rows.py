"""Result rows: one JSON object a line, with the per-example bits beside in a file the row names."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheostat.results.intervals import exact, share
from rheostat.runtime.files import write_bytes, write_text
from rheostat.runtime.seeding import seed_of

Row = dict[str, Any]
LEVEL = 0.95


def hardware(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "threads": torch.get_num_threads()}
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {"device": model, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def scores(clean: Tensor, robust: Tensor) -> Row:
    """The accuracy fields of a row, from bits (N,)."""
    n = len(clean)
    return {
        "n": n,
        "clean_accuracy": share(clean),
        "robust_accuracy": share(robust),
        "interval": {
            "level": LEVEL,
            "clean": list(exact(int(clean.sum()), n, level=LEVEL)),
            "robust": list(exact(int(robust.sum()), n, level=LEVEL)),
        },
    }


def identity(row: Row) -> str:
    """What makes two rows the same measurement: 16 hex digits."""
    keys = (
        "run",
        "artifact",
        "dataset",
        "split",
        "at",
        "rule",
        "attack",
        "tier",
        "cumulative",
        "knowledge",
        "n",
        "seed",
    )
    return f"{seed_of(json.dumps([row.get(k) for k in keys], sort_keys=True)):016x}"


def write_bits(folder: Path, row: Row, clean: Tensor, robust: Tensor) -> str:
    """Store per-example bits beside the rows; the name to put in the row."""
    packed = np.packbits(torch.stack([clean, robust]).numpy(), axis=1)
    buffer = io.BytesIO()
    np.save(buffer, packed, allow_pickle=False)
    name = f"bits/{identity(row)}.npy"
    write_bytes(folder / name, buffer.getvalue())
    return name


def read_bits(folder: Path, row: Row) -> tuple[Tensor, Tensor]:
    """(clean, robust) bits of a row, (n,) bool each."""
    path = folder / str(row["bits"])
    if not path.is_file():
        raise ValueError(f"no file {path}, which a row names")
    packed = np.load(path, allow_pickle=False)
    bits = torch.from_numpy(np.unpackbits(packed, axis=1)[:, : row["n"]].astype(bool))
    return bits[0], bits[1]


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file; ValueError names the line that is not JSON. No file: no rows."""
    out: list[Row] = []
    file = Path(path)
    if not file.is_file():
        return out
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from None
    return out


def rows_file(run: Path) -> Path:
    """The rows of a run's folder, or the file itself; ValueError where there is none."""
    file = run / "rows.jsonl" if run.is_dir() else run
    if not file.is_file():
        raise ValueError(f"no rows in {run}; run `rheostat evaluate {run}` first")
    return file


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write all rows of a file, whole."""
    write_text(Path(path), "".join(json.dumps(r) + "\n" for r in rows))


def add_rows(path: str | Path, new: Iterable[Row]) -> None:
    """Add rows; a row of the same measurement is replaced in place."""
    rows = {identity(r): r for r in read_rows(path)}
    rows |= {identity(r): r for r in new}
    write_rows(path, rows.values())
