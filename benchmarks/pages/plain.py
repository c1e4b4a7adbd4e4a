"""Rows as plain dicts, which is how the pages read them: the one place between the schema and these scripts.

A plain row has the fields of docs/row.md, nested as in the file, without those that do not apply; but
`rule` is there always (None: the model's own dial), and `bits` says where its bits lie.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rheostat.results import rows as files
from rheostat.results.bits import PackedBits, Pair
from rheostat.results.bits import read_bits as packed_bits
from rheostat.results.row import Row as TypedRow
from rheostat.results.timings import holds_timings, read_timings

Row = dict[str, Any]


def read_rows_plain(path: str | Path) -> list[Row]:
    """The rows of a file as plain dicts; timings and costs as they are."""
    if holds_timings(path):
        return read_timings(path)
    return [{"rule": None, **row.plain(), "bits": str(path)} for row in files.read_rows(path)]


def typed(row: Row) -> TypedRow:
    """A plain row as the schema has it, for functions of the package."""
    return TypedRow.model_validate({k: v for k, v in row.items() if k != "bits"})


def worst_rows(rows: list[Row]) -> list[Row]:
    """The rows of worst cases over attacks: what curves and tables are made of."""
    return [r for r in rows if r["attack"]["name"] == "worst"]


def read_bits(results: Path, row: Row) -> Pair:
    """(clean, robust) bits of a row, (n,) bool each."""
    return _bits(row["bits"]).of(typed(row))


@functools.cache
def _bits(file: str) -> PackedBits:
    return packed_bits(file)
