"""Per-example bits: one packed file for each file of rows, indexed by the rows' identities.

The bits of `rows.jsonl` are in `rows.bits.safetensors`: for each row a uint8 tensor (2, ceil(n / 8)), clean and
robust, most significant bit first. Rows of version 1 name a separate .npy file each, which is still read if the packed
file does not hold the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rheostat.results.row import Row
from rheostat.runtime.files import read_tensors, write_tensors

Pair = tuple[Tensor, Tensor]
"""(clean, robust) bits of a row's images, (n,) bool each."""


def bits_file(rows_file: str | Path) -> Path:
    """The packed file that belongs to a file of rows."""
    return Path(rows_file).with_suffix(".bits.safetensors")


def pack(clean: Tensor, robust: Tensor) -> Tensor:
    """Pack clean and robust bits, (n,) bool each, as uint8 (2, ceil(n / 8))."""
    return torch.from_numpy(np.packbits(torch.stack([clean, robust]).cpu().numpy(), axis=1))


def unpack(packed: Tensor, n: int) -> Pair:
    """The (clean, robust) bits of n images."""
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1)[:, :n].astype(bool))
    return bits[0], bits[1]


@dataclass(frozen=True)
class PackedBits:
    """The bits of every row of a file; `of(row)` gives one row's."""

    rows_file: Path
    packed: Mapping[str, Tensor]

    def of(self, row: Row) -> Pair:
        """(clean, robust) bits of a row, (n,) bool each; ValueError if there are none."""
        found = self.packed.get(row.identity)
        if found is None and row.bits is not None:
            found = _loose(self.rows_file.parent / row.bits)
        if found is None:
            raise ValueError(
                f"{bits_file(self.rows_file)} holds no bits of row {row.identity} ({row.run}, {row.attack.name})"
            )
        return unpack(found, row.n)


def _loose(path: Path) -> Tensor | None:
    """Read the separate file of a row of version 1."""
    return torch.from_numpy(np.load(path, allow_pickle=False)) if path.is_file() else None


def read_bits(rows_file: str | Path) -> PackedBits:
    """The bits of all rows of a file. Without a packed file it reads the files that the rows name."""
    path = bits_file(rows_file)
    return PackedBits(Path(rows_file), read_tensors(path)[0] if path.is_file() else {})


def write_bits(rows_file: str | Path, rows: Iterable[Row], new: Mapping[str, Pair]) -> None:
    """Add bits by identity to the packed file and drop bits without a row. The caller must hold the rows' lock."""
    kept = dict(read_bits(rows_file).packed) | {name: pack(*pair) for name, pair in new.items()}
    names = {row.identity for row in rows}
    kept = {name: kept[name] for name in sorted(kept) if name in names}
    path = bits_file(rows_file)
    if kept:
        write_tensors(path, kept, {"bits": 1})
    else:
        path.unlink(missing_ok=True)
