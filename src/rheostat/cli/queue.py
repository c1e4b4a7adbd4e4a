"""The command `queue`: many runs from one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.deploy import Verify

app = typer.Typer()


@app.command(epilog="Example: rheostat queue benchmarks/queues/study.toml --list")
def queue(
    file: Annotated[Path, typer.Argument(help="A queue file: recipes with changes, and their measurements.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    only: Annotated[str, typer.Option(help="Only the run with this name, or else all whose names contain it.")] = "",
    minutes: Annotated[float | None, typer.Option(help="Start no further run after this many minutes.")] = None,
    stretch: Annotated[
        float | None, typer.Option(help="Stop after this many minutes, even within a run; the same command continues.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the runs with their states, and stop.")] = False,
    threads: Annotated[int, typer.Option(help="CPU threads per run.", min=1)] = 2,
    verify: Verify = True,
) -> None:
    """Train and measure every run of a queue file. Finished runs are not repeated; a killed one continues.

    A file may hold `set` (changes for all its runs) and `include` (queue files whose runs come first and use
    their own rows files). `rows` is relative to the queue file. --list prints "done" if the run's folder is
    finished, "rows" if only its rows exist, else "open". The exit code is 1 if a run failed.
    """
    from rheostat.training.queue import read_queue, select
    from rheostat.training.queue_runner import states, work

    chosen = select(read_queue(file), only)
    if list_:
        for state, run in states(chosen, runs):
            print(f"{state:>5}  {run.name}")
        return
    finished = sum(state == "done" for state, _ in states(chosen, runs))
    print(f"{len(chosen)} runs, {finished} of them finished", flush=True)
    failed = []
    for event in work(chosen, runs, threads=threads, minutes=minutes, stretch=stretch, verify=verify):
        note = f" ({event.note})" if event.note else ""
        print(f"{event.state:>5}  {event.run.name}{note}", flush=True)
        failed += [event.run.name] if event.state == "failed" else []
    if failed:
        print(f"rheostat: failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)
