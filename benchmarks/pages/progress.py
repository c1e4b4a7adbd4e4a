"""Sections of docs/appendix on progress: the study's queue and the papers' own settings."""

from __future__ import annotations

import functools
from pathlib import Path

from markdown import table
from plain import Row, worst_rows

from rheostat.results.rows import read_rows
from rheostat.training.queue import read_queue, recorded

QUEUES = Path(__file__).parents[1] / "queues"


def state() -> str:
    """The progress of the study's queue, from the rows."""
    runs = read_queue(QUEUES / "study.toml")
    read = functools.cache(read_rows)
    left = [r.name for r in runs if not recorded(r, read)]
    return (
        f"## The study's queue\n\n{len(runs) - len(left)} of {len(runs)} entries have all their rows"
        + (f". Open: {', '.join(left)}" if left else "")
        + ". `rheostat queue benchmarks/queues/study.toml --list` prints this list.\n"
    )


def papers(rows: list[Row]) -> str:
    """The runs with the papers' own settings, and which of them have rows."""
    body = []
    for file in sorted((QUEUES / "paper").glob("*.toml")):
        for run in read_queue(file):
            found = [r for r in worst_rows(rows) if r["run"] == run.name]
            where = f"{len(found)} points" if found else "not yet run"
            body.append([f"`benchmarks/queues/paper/{file.name}`", run.name, run.recipe, where])
    return (
        "## The papers' own settings\n\nEach run needs a machine with CUDA. The same command continues a run that was "
        "stopped.\n\n" + table(["queue", "run", "recipe", "measured"], body)
    )
