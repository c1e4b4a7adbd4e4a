"""The sections of docs/appendix on what has run: the study's queue, the papers' own settings."""

from __future__ import annotations

import functools
from pathlib import Path

from markdown import table
from plain import Row, worst_rows

from rheostat.results.rows import read_rows
from rheostat.training.queue import read_queue, recorded

QUEUES = Path(__file__).parents[1] / "queues"


def state() -> str:
    """How far the study's queue is, from the rows."""
    runs = read_queue(QUEUES / "study.toml")
    read = functools.cache(read_rows)
    left = [r.name for r in runs if not recorded(r, read)]
    return (
        "## The study's queue\n\n`rheostat queue benchmarks/queues/study.toml --list` says the same. "
        f"{len(runs) - len(left)} of {len(runs)} entries have all their rows"
        + (f"; open: {', '.join(left)}.\n" if left else ".\n")
    )


def papers(rows: list[Row]) -> str:
    """What of the papers' own settings has run."""
    body = []
    for file in sorted((QUEUES / "paper").glob("*.toml")):
        for run in read_queue(file):
            found = [r for r in worst_rows(rows) if r["run"] == run.name]
            where = f"{len(found)} points" if found else "not yet run"
            body.append([f"`benchmarks/queues/paper/{file.name}`", run.name, run.recipe, where])
    return (
        "## The papers' own settings\n\nEach needs a CUDA machine; one command continues where the last ended.\n\n"
        + table(["queue", "run", "recipe", ""], body)
    )
