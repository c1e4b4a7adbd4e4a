"""Files of timings and costs: plain JSON objects, one a line, whose fields their own scripts choose.

They are no rows of an evaluation: nothing in them has a tier, and `read_rows` refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rheostat.results.rows import is_row, read_lines
from rheostat.runtime.files import write_text

Timing = dict[str, Any]


def read_timings(path: str | Path) -> list[Timing]:
    """The timings of a file; ValueError where it holds rows of an evaluation. No file: none."""
    found = read_lines(path)
    for number, line in enumerate(found, 1):
        if is_row(line):
            raise ValueError(f"{path}, line {number}: a row of an evaluation, no timing; read it by read_rows")
    return found


def holds_timings(path: str | Path) -> bool:
    """Whether a results file is one of timings: it has lines, and none is of an evaluation."""
    found = read_lines(path)
    return bool(found) and not any(map(is_row, found))


def write_timings(path: str | Path, timings: Iterable[Mapping[str, Any]]) -> None:
    """Write all timings of a file, whole."""
    write_text(Path(path), "".join(json.dumps(t) + "\n" for t in timings))
