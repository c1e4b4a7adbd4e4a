"""A resumable queue of runs: train, evaluate, rows. `python benchmarks/queues/run_queue.py benchmarks/queues/fashion.toml`.

A finished run is never repeated; a killed one continues, in training from its checkpoint, in evaluation
from its last finished point. (Not named queue.py: that would hide Python's own module from its
neighbours.) `--minutes` stops taking new runs; `--only WORD` takes the run of that name, or all whose
names hold it; `--stretch 9` stops after so many minutes wherever it is, to be continued by the same
command. `--list` says what has run: "done" in this folder of runs, "rows" where all its rows are in but
its folder is not here, else "open". A file may hold `set`, changes for all its runs, and `include`, queue
files whose runs come first and fill their own rows.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rheostat.points.grid import parse_grid
from rheostat.results.row import Row
from rheostat.results.rows import read_rows
from rheostat.runtime.files import write_text

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """One entry of a queue file: a recipe with changes, and what to measure of it."""

    name: str
    recipe: str
    changes: tuple[str, ...]
    evaluate: tuple[dict[str, Any], ...]
    rows: Path

    @property
    def mark(self) -> str:
        """Changes when the entry does: an edited entry is another run."""
        text = json.dumps([self.recipe, self.changes, self.evaluate], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_queue(path: Path) -> list[Run]:
    """The runs of a file in order, those it includes first. ValueError on what cannot be right."""
    found = tomllib.loads(path.read_text())
    extra = set(found) - {"rows", "include", "set", "evaluate", "run"}
    if extra:
        raise ValueError(f"{path}: unknown key {extra.pop()!r}")
    runs = [run for file in found.get("include", []) for run in read_queue(path.parent / file)]
    rows = ROOT / "benchmarks" / "results" / found["rows"]
    common = found.get("set", [])
    mine = []
    for entry in found["run"]:
        unknown = set(entry) - {"name", "recipe", "set", "evaluate"}
        if unknown:
            raise ValueError(f"{path}: run {entry.get('name')!r} has an unknown key {unknown.pop()!r}")
        evaluations = found["evaluate"][entry.get("evaluate", "default")]
        changes = (*common, *entry.get("set", []))
        mine.append(Run(entry["name"], entry["recipe"], changes, tuple(evaluations), rows))
    names = [r.name for r in mine]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"{path}: two runs named {twice.pop()!r}")
    before = {r.name: r for r in runs}
    for run in mine:
        other = before.get(run.name)
        if other is not None and (other.recipe, other.changes) != (run.recipe, run.changes):
            raise ValueError(f"{path}: {run.name!r} is another run in an included file")
    return runs + mine


def marks(run: Run, folder: Path) -> list[str]:
    """The entries that have run to their end on this run's folder: several files may measure one run."""
    done = folder / run.name / "done.json"
    return list(json.loads(done.read_text())["marks"]) if done.is_file() else []


def finished(run: Run, folder: Path) -> bool:
    """Whether this very entry has run to its end."""
    return run.mark in marks(run, folder)


def recorded(run: Run, read: Callable[[Path], list[Row]] = read_rows) -> bool:
    """Whether every point of every entry of this run has a row in the file that it writes to.

    Who asks for many runs gives a `read` that keeps what it has read.
    """
    mine = [r for r in read(run.rows) if r.run == run.name]
    for entry in run.evaluate:
        found = [r.at.items() for r in mine if matches(r, entry)]
        # A row also names the dials that the entry left at rest.
        asked = [p.numbers().items() for p in parse_grid(entry.get("at", ""))]
        if not all(any(point <= at for at in found) for point in asked):
            return False
    return True


def matches(row: Row, entry: dict[str, Any]) -> bool:
    """Whether a row is of this entry: its tier, rule between norm sets, number of images and attacks."""
    asked = entry.get("tier", "quick"), entry.get("between"), entry.get("examples", row.n)
    if (row.tier, row.rule, row.n) != asked:
        return False
    if "attack" not in entry or row.attack.of is None:
        return True
    made = list(row.attack.names)
    # Every form of attack on a multi-exit net goes by one name: pgd20@all.
    whole = [name.partition("@")[0] for name in entry["attack"] if name.endswith("@all")]
    return made == entry["attack"] or (len(made) > 1 and [made[0].partition("@")[0]] == whole)


def commands(run: Run, folder: Path, threads: int, *, verify: bool = True) -> list[list[str]]:
    """What a run is, as command lines: anyone can type them."""
    base = [sys.executable, "-m", "rheostat"]
    place = str(folder / run.name)
    sets = [part for change in run.changes for part in ("--set", change)]
    common = ["--threads", str(threads), *([] if verify else ["--no-verify"])]
    out = [[*base, "train", run.recipe, "--out", place, *common, *sets]]
    for options in run.evaluate:
        line = [*base, "evaluate", place, "--out", str(run.rows), "--name", run.name]
        line += common
        for key, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                line += [f"--{key}", str(one)]
        out.append(line)
    return out


def call(line: list[str], until: float) -> int | None:
    """Run a command and give its exit code; None where it was interrupted at a time (it keeps what it has)."""
    process = subprocess.Popen(line)
    try:
        return process.wait(timeout=max(until - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=1e9, help="take no new run after this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="say what has run, and stop")
    parser.add_argument("--only", default="", help="the run of this name, or all whose names hold it")
    parser.add_argument("--stretch", type=float, help="stop after so many minutes, anywhere")
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="take data sets whose digest is not the official one"
    )
    options = parser.parse_args()
    started = time.monotonic()
    until = started + 60 * options.stretch if options.stretch else started + 1e9
    failed: list[str] = []
    runs = read_queue(options.file)
    read = functools.cache(read_rows)
    exact = any(run.name == options.only for run in runs)
    for run in runs:
        if run.name != options.only if exact else options.only not in run.name:
            continue
        done = finished(run, options.runs)
        if options.list or done:
            state = "done" if done else "rows" if recorded(run, read) else "open"
            print(f"{state:>5}  {run.name}", flush=True)
            continue
        if (time.monotonic() - started) / 60 > options.minutes:
            print(f" open  {run.name} (no time left)", flush=True)
            continue
        print(f"  now  {run.name}", flush=True)
        for line in commands(run, options.runs, options.threads, verify=options.verify):
            code = call(line, until)
            if code is None:
                print(f" open  {run.name} (the same command continues)", flush=True)
                return
            if code:
                failed.append(run.name)
                print(f"failed {run.name}: {' '.join(line)}", flush=True)
                break
        else:
            kept = [*marks(run, options.runs), run.mark]
            write_text(options.runs / run.name / "done.json", json.dumps({"marks": kept}))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
