"""The times that `rheostat bench --out` wrote, as `choose` and `serve` read them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rheostat.results.timings import read_timings

Key = TypeVar("Key", bound=Hashable)
UNKNOWN = (
    "has times of images that no exit lets leave early, because bench did not know which exits images take; bench the "
    "run's folder after `rheostat evaluate RUN --split calibrate-choose`, or store the point by name first"
)
"""What is said of a file with `PassTimes` that are not `early`, after the names of the points."""


@dataclass(frozen=True)
class Wanted:
    """A point whose times are wanted: its name in messages, its dials, and the forms in which it may be served."""

    label: str
    at: Mapping[str, float]
    forms: Sequence[str]
    live: bool = False
    """Whether it has live exits."""


@dataclass(frozen=True)
class PassTimes:
    """Milliseconds of a pass by number of images."""

    milliseconds: tuple[tuple[int, float], ...]
    early: bool = True
    """False if the point has live exits and it was not known which of them images take: none leaves early."""


def fastest_times(path: Path, wanted: Mapping[Key, Wanted], *, artifact: str) -> dict[Key, PassTimes]:
    """The times of every point in the form that is fastest for the fewest images.

    ValueError if the rows are of another model, if a point has no row, or if a point with live exits was timed by a
    version that timed one image alone.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; write it with `rheostat bench FILE --out {path}`")
    rows = [r for r in read_timings(path) if r.get("artifact") == artifact]
    if not rows:
        raise ValueError(f"{path} has no rows of this model (hash {artifact}); measure them with `rheostat bench`")
    return {key: _fastest(path, rows, one) for key, one in wanted.items()}


def _fastest(path: Path, rows: Sequence[Mapping[str, Any]], one: Wanted) -> PassTimes:
    own = [r for r in rows if r.get("at") == dict(one.at) and r.get("form") in one.forms]
    if not own:
        quantised = " (--int8)" if any("int8" in form for form in one.forms) else ""
        raise ValueError(
            f"{path} has no times of {one.label} as {' or '.join(one.forms)}; bench that point too{quantised}"
        )
    if one.live and any("exit_shares" not in r for r in own):
        raise ValueError(
            f"{path}: {one.label} has live exits and was timed by an earlier version, on a single image; bench it again"
        )
    found = [PassTimes(_passes(path, r), r.get("exit_shares", ()) is not None) for r in own]
    return min(found, key=lambda times: times.milliseconds[0][1])


def _passes(path: Path, row: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    try:
        found = tuple(sorted((int(n), float(ms)) for n, ms in row["p50_ms"].items()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: a row without times of a pass ({error})") from None
    if not found or any(n < 1 or not 0 < ms < math.inf for n, ms in found):
        raise ValueError(f"{path}: a row without times of a pass (given {row['p50_ms']})")
    return found
