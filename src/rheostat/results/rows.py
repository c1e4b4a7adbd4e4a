"""Files of rows: one JSON object per line, and a second file with the packed per-example bits (`bits`).

They hold only rows of evaluations; timings and costs have separate files (`timings`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rheostat.results.bits import Pair, write_bits
from rheostat.results.listed import Rows
from rheostat.results.migration import migrated
from rheostat.results.row import VERSION, Row
from rheostat.runtime.files import locked, write_text


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file; ValueError names an invalid line, or a file that is not UTF-8.

    A missing file gives an empty list.
    """
    out: list[dict[str, Any]] = []
    file = Path(path)
    if not file.is_file():
        return out
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a file of rows; it is not UTF-8 ({error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number with too many digits is also a ValueError
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(found, dict):
            raise ValueError(f"{file}, line {number}: not a JSON object")
        out.append(found)
    return out


def is_row(line: Mapping[str, Any]) -> bool:
    """Whether an object of a results file is a row of an evaluation; every such row names its tier."""
    return "tier" in line


def read_rows(path: str | Path) -> Rows:
    """Read the rows of a file, of this schema version or an earlier one. A missing file gives no rows.

    ValueError names the line that is not JSON, is not a row of an evaluation, or does not match the schema.
    """
    return Rows(parse_row(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1))


def parse_row(line: dict[str, Any], where: str = "row") -> Row:
    """Parse a row of this schema version or an earlier one from its JSON object; ValueError says what is wrong."""
    if not is_row(line):
        raise ValueError(f"{where}: not a row of an evaluation (it has no tier); read timings with read_timings")
    if line.get("version", VERSION) not in (2, VERSION):
        raise ValueError(f"{where}: row of version {line['version']}, this package reads versions 1 to {VERSION}")
    try:
        return Row.model_validate(migrated(line))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: not a row; {field}: {first['msg']}") from None


def rows_file(run: Path) -> Path:
    """The rows file of a run's folder, or the given file itself; ValueError if it does not exist."""
    file = run / "rows.jsonl" if run.is_dir() else run
    if not file.is_file():
        raise ValueError(f"no rows in {run}; run `rheostat evaluate {run}` first")
    return file


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write all rows of a file atomically; use `add_rows` to add rows and their bits."""
    write_text(Path(path), "".join(json.dumps(row.plain()) + "\n" for row in rows))


def add_rows(
    path: str | Path, new: Iterable[Row], bits: Mapping[str, Pair] | None = None, *, drop: Sequence[str] = ()
) -> None:
    """Add rows and their bits (by identity); a new row replaces an old row of the same measurement in place.

    `drop` holds identities of rows to remove. The file is locked, so that several processes and threads can add rows
    concurrently without losing any.
    """
    with locked(Path(path)):
        rows = {r.identity: r for r in read_rows(path)}
        for identity in drop:
            rows.pop(identity, None)
        rows |= {r.identity: r for r in new}
        if bits or drop:
            write_bits(path, rows.values(), bits or {})
        write_rows(path, rows.values())
