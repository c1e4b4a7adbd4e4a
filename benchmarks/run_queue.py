"""A resumable queue of runs: train, evaluate, rows. `python benchmarks/run_queue.py benchmarks/fashion.toml`.

A finished run is never repeated; a killed one continues, in training from its checkpoint, in evaluation
from its last finished point. (Not named queue.py: that would hide Python's own module from its
neighbours.) `--minutes` stops taking new runs; `--list` says what has run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rheostat.files import write_text

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """One entry of a queue file: a recipe with changes, and what to measure of it."""

    name: str
    recipe: str
    changes: tuple[str, ...]
    evaluate: tuple[dict[str, Any], ...]

    @property
    def mark(self) -> str:
        """Changes when the entry does: an edited entry is another run."""
        text = json.dumps([self.recipe, self.changes, self.evaluate], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_queue(path: Path) -> tuple[list[Run], Path]:
    """The runs of a file in order, and the rows file they fill. ValueError on what cannot be right."""
    found = tomllib.loads(path.read_text())
    runs = []
    for entry in found["run"]:
        unknown = set(entry) - {"name", "recipe", "set", "evaluate"}
        if unknown:
            raise ValueError(
                f"{path}: run {entry.get('name')!r} has an unknown key {unknown.pop()!r}"
            )
        chosen = entry.get("evaluate", "default")
        evaluations = found["evaluate"][chosen]
        runs.append(
            Run(entry["name"], entry["recipe"], tuple(entry.get("set", [])), tuple(evaluations))
        )
    names = [r.name for r in runs]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"{path}: two runs named {twice.pop()!r}")
    return runs, ROOT / "benchmarks" / "results" / found["rows"]


def finished(run: Run, folder: Path) -> bool:
    """Whether this very entry has run to its end."""
    done = folder / run.name / "done.json"
    return done.is_file() and json.loads(done.read_text())["mark"] == run.mark


def commands(run: Run, folder: Path, rows: Path, threads: int) -> list[list[str]]:
    """What a run is, as command lines: anyone can type them."""
    base = [sys.executable, "-m", "rheostat"]
    place = str(folder / run.name)
    sets = [part for change in run.changes for part in ("--set", change)]
    out = [[*base, "train", run.recipe, "--out", place, "--threads", str(threads), *sets]]
    for options in run.evaluate:
        line = [*base, "evaluate", place, "--out", str(rows), "--name", run.name]
        line += ["--threads", str(threads)]
        for key, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                line += [f"--{key}", str(one)]
        out.append(line)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=1e9, help="take no new run after this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="say what has run, and stop")
    options = parser.parse_args()
    runs, rows = read_queue(options.file)
    started = time.monotonic()
    for run in runs:
        done = finished(run, options.runs)
        if options.list or done:
            print(f"{'done' if done else 'open':>5}  {run.name}", flush=True)
            continue
        if (time.monotonic() - started) / 60 > options.minutes:
            print(f" open  {run.name} (no time left)", flush=True)
            continue
        print(f"  now  {run.name}", flush=True)
        for line in commands(run, options.runs, rows, options.threads):
            subprocess.run(line, check=True)
        write_text(options.runs / run.name / "done.json", json.dumps({"mark": run.mark}))


if __name__ == "__main__":
    main()
