"""Rows as plain dicts: the only place between the schema and the scripts of the pages.

A plain row has the fields of docs/row.md, nested as in the file, without those that do not apply. It always has `rule`
(None: the model's own dial), and `bits` is the file of its rows.
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
    """The rows of a file as plain dicts; rows of timings and costs are unchanged."""
    if holds_timings(path):
        return read_timings(path)
    return [{"rule": None, **row.plain(), "bits": str(path)} for row in files.read_rows(path)]


def typed(row: Row) -> TypedRow:
    """A plain row as a row of the schema, for functions of the package."""
    return TypedRow.model_validate({k: v for k, v in row.items() if k != "bits"})


def worst_rows(rows: list[Row]) -> list[Row]:
    """The rows of worst cases over attacks, from which curves and tables are made."""
    return [r for r in rows if r["attack"]["name"] == "worst"]


def read_bits(results: Path, row: Row) -> Pair:
    """(clean, robust) bits of a row, (n,) bool each."""
    return _bits(row["bits"]).of(typed(row))


@functools.cache
def _bits(file: str) -> PackedBits:
    return packed_bits(file)
