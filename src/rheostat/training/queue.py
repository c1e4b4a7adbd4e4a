"""A queue: a TOML file of recipes with changes and measurements, and functions that say which of them have run.

`rows` is the file for the measurements, relative to the queue file. `set` holds changes for every run of the file.
`precision` is the training precision of every run that does not `set` one; without it the recipe's applies. `include`
names queue files whose runs come first and keep their own rows files. `[evaluate]` holds named lists of measurements,
each a table of options of `rheostat evaluate`; a `[[run]]` uses the list that its key `evaluate` names, or `default`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rheostat.data.corruptions import CORRUPTIONS
from rheostat.evaluation.options import DEFAULT_SPLIT
from rheostat.points.grid import parse_grid
from rheostat.results.corrupted import TIER
from rheostat.results.row import Row
from rheostat.results.rows import read_rows
from rheostat.runtime.choices import check_choice, nearest
from rheostat.runtime.precision import Asked
from rheostat.runtime.toml import read_toml


@dataclass(frozen=True)
class Run:
    """One entry of a queue file: a recipe with changes, its measurements, and the file of its rows."""

    name: str
    recipe: str
    changes: tuple[str, ...]
    evaluate: tuple[dict[str, Any], ...]
    rows: Path
    folder: Path = Path()
    precision: Asked | None = None

    @property
    def source(self) -> str:
        """The recipe argument of `rheostat train`: a packaged name, or a file relative to the queue file."""
        return str(self.folder / self.recipe) if self.recipe.endswith(".toml") else self.recipe

    @property
    def settings(self) -> tuple[str, ...]:
        """The changes to the recipe: the file's precision, then those of the entry, which override it."""
        return self.changes if self.precision is None else (f"device.precision={self.precision}", *self.changes)

    @property
    def mark(self) -> str:
        """12 hex digits that change with the entry and its recipe file, so that an edited one counts as another run."""
        parts: list[Any] = [self.recipe, self.changes, self.evaluate]
        if self.precision not in (None, "fp32"):  # older runs used fp32 without naming it
            parts.append(self.precision)
        if self.recipe.endswith(".toml") and Path(self.source).is_file():
            parts.append({k: v for k, v in read_toml(Path(self.source)).items() if k not in ("about", "name")})
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(pattern=r"^[^/]+$")
    recipe: str
    changes: list[str] = Field(default_factory=list, alias="set")
    evaluate: str = "default"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rows: str = ""
    precision: Asked | None = None
    include: list[str] = Field(default_factory=list)
    changes: list[str] = Field(default_factory=list, alias="set")
    evaluate: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    run: list[_Entry] = Field(default_factory=list)


def read_queue(path: str | Path) -> list[Run]:
    """The runs of a file in order, after those of included files.

    One-line ValueError if the file is not TOML, has an unknown key or two runs of one name, includes itself, or
    includes a different run under the name of one of its own.
    """
    return _read(Path(path), ())


def _read(path: Path, outer: tuple[Path, ...]) -> list[Run]:
    if path.resolve() in outer:
        raise ValueError(f"{path}: a queue file cannot include itself")
    found = _parsed(path)
    outer = (*outer, path.resolve())
    included = [run for file in found.include for run in _read(path.parent / file, outer)]
    runs = [_run(entry, found, path) for entry in found.run]
    names = [r.name for r in runs]
    twice = [n for n in dict.fromkeys(names) if names.count(n) > 1]
    if twice:
        raise ValueError(f"{path}: two runs named {twice[0]!r}")
    before = {r.name: r for r in included}
    for run in runs:
        other = before.get(run.name)
        if other is not None and (other.source, other.changes) != (run.source, run.changes):
            raise ValueError(f"{path}: {run.name!r} is another run in an included file")
    return included + runs


def _parsed(path: Path) -> _File:
    try:
        found = _File.model_validate(read_toml(path))
    except ValidationError as error:
        raise ValueError(f"{path}: {_message(error)}") from None
    if found.run and not found.rows:
        raise ValueError(f"{path}: missing key 'rows', the file that the rows of its runs go to")
    return found


def _run(entry: _Entry, file: _File, path: Path) -> Run:
    check_choice(f"{path}: run {entry.name!r}", "list under [evaluate] named", entry.evaluate, file.evaluate)
    measured = tuple(file.evaluate[entry.evaluate])
    changes = (*file.changes, *entry.changes)
    # Use one canonical path per file, so that a cache of read files works.
    rows = (path.parent / file.rows).resolve()
    return Run(entry.name, entry.recipe, changes, measured, rows, path.parent, file.precision)


def _message(error: ValidationError) -> str:
    problem = error.errors()[0]
    *_, last = problem["loc"]
    where = ".".join(str(p) for p in problem["loc"])
    if problem["type"] == "extra_forbidden":
        kind = _File if len(problem["loc"]) == 1 else _Entry
        keys = [field.alias or name for name, field in kind.model_fields.items()]
        return f"unknown key {where!r}; {nearest(str(last), keys)}"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    return f"{where}: {problem['msg']} (given {problem['input']!r})"


def select(runs: Iterable[Run], word: str) -> list[Run]:
    """The run with this name, or all runs whose names contain the word; ValueError if there is none."""
    every = list(runs)
    exact = [r for r in every if r.name == word]
    found = exact or [r for r in every if word in r.name]
    if every and not found:
        raise ValueError(f"no run's name contains {word!r}; {nearest(word, {r.name for r in every})}")
    return found


def marks(run: Run, folder: Path) -> list[str]:
    """The marks of the entries that are finished in this run's folder; several queue files may measure one run."""
    done = folder / run.name / "done.json"
    return list(json.loads(done.read_text())["marks"]) if done.is_file() else []


def finished(run: Run, folder: Path) -> bool:
    """Whether exactly this entry has finished, with the runs' folders in `folder`."""
    return run.mark in marks(run, folder)


def recorded(run: Run, read: Callable[[Path], list[Row]] = read_rows) -> bool:
    """Whether every point of every measurement of this run has a row in its rows file.

    For many runs, pass a `read` that caches files, such as `functools.cache(read_rows)`.
    """
    rows = [r for r in read(run.rows) if r.run == run.name]
    for entry in run.evaluate:
        found = [r for r in rows if matches(r, entry)]
        # A row also names the dials that the entry leaves at rest.
        asked = [p.numbers().items() for p in parse_grid(entry.get("at", ""))]
        for point in asked:
            here = {r.corruption and (r.corruption.name, r.corruption.severity) for r in found if point <= r.at.items()}
            if not _wanted(entry) <= here:
                return False
    return True


def _wanted(entry: dict[str, Any]) -> set[tuple[str, int] | None]:
    """The corruptions for which a point needs rows; for a measurement under attacks only None."""
    if not entry.get("corruptions"):
        return {None}
    severities = map(int, str(entry.get("severities", "1,3,5")).split(","))
    return {(name, severity) for severity in severities for name in CORRUPTIONS}


def matches(row: Row, entry: dict[str, Any]) -> bool:
    """Whether a row belongs to this measurement: its split, tier, rule, images, precisions and attacks.

    Of the settings of attacks an entry can change only the step size.
    """
    tier = TIER if entry.get("corruptions") else entry.get("tier", "quick")
    asked = entry.get("split", DEFAULT_SPLIT), tier, entry.get("between"), entry.get("examples", row.n)
    if (row.split, row.tier, row.rule, row.n) != asked:
        return False
    if entry.get("precision", "fp32") != row.precision:
        return False
    if entry.get("attack-precision", "fp32") not in ("auto", row.attack_precision):
        return False
    if row.attack.budgets and "step-size" not in entry:
        return False
    if "attack" not in entry or row.attack.of is None:
        return True
    made = list(row.attack.names)
    # The name pgd20@all stands for all forms of attack on a multi-exit network.
    whole = [name.partition("@")[0] for name in entry["attack"] if name.endswith("@all")]
    return made == entry["attack"] or (len(made) > 1 and [made[0].partition("@")[0]] == whole)
