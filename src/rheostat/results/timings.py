"""Files of timings and costs: one plain JSON object per line, with fields chosen by the script that writes them.

They are not rows of an evaluation: they have no tier, and `read_rows` refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rheostat.results.rows import is_row, read_lines
from rheostat.runtime.files import write_text

Timing = dict[str, Any]


def read_timings(path: str | Path) -> list[Timing]:
    """Read the timings of a file; ValueError if it holds rows of an evaluation. A missing file gives an empty list."""
    found = read_lines(path)
    for number, line in enumerate(found, 1):
        if is_row(line):
            raise ValueError(f"{path}, line {number}: a row of an evaluation, not a timing; read it with read_rows")
    return found


def holds_timings(path: str | Path) -> bool:
    """Whether a results file holds timings: it has lines, and none of them is a row of an evaluation."""
    found = read_lines(path)
    return bool(found) and not any(map(is_row, found))


def write_timings(path: str | Path, timings: Iterable[Mapping[str, Any]]) -> None:
    """Write all timings of a file atomically."""
    write_text(Path(path), "".join(json.dumps(t) + "\n" for t in timings))


def merge_timings(path: str | Path, timings: Iterable[Mapping[str, Any]], *, key: Sequence[str]) -> None:
    """Add timings to a file atomically, in place of those with equal values of the fields `key`.

    Only lines of the same hardware stay, so that one table compares one machine. A script that calls this after each
    measurement loses nothing when it is killed.
    """
    new = {tuple(t.get(name) for name in key): dict(t) for t in timings}
    if not new:
        return
    hardware = next(iter(new.values())).get("hardware")
    kept = [t for t in read_timings(path) if t.get("hardware") == hardware]
    old = {tuple(t.get(name) for name in key): t for t in kept}
    write_timings(path, {**old, **new}.values())
