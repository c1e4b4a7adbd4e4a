"""Work through a queue: ordinary command lines train and measure each run.

A finished run is never repeated. A killed run continues: its training from the checkpoint, its evaluation from the
last finished point. A stopped queue stops its current command, which keeps its results.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rheostat.results.rows import read_rows
from rheostat.runtime.files import write_text
from rheostat.runtime.interrupts import Interrupted, received_by
from rheostat.training.queue import Run, finished, marks, recorded


@dataclass(frozen=True)
class Event:
    """The state of a run: "done", "now", "open" or "failed", and why."""

    state: str
    run: Run
    note: str = ""


def states(runs: Iterable[Run], folder: Path) -> Iterator[tuple[str, Run]]:
    """The state of each run: "done" in this folder, "rows" if only its rows exist and not its folder, or "open"."""
    read = functools.cache(read_rows)
    for run in runs:
        yield "done" if finished(run, folder) else "rows" if recorded(run, read) else "open", run


def commands(run: Run, folder: Path, threads: int, *, verify: bool = True) -> list[list[str]]:
    """The command lines of a run: train, then each of its measurements."""
    base = [sys.executable, "-m", "rheostat"]
    target = str(folder / run.name)
    common = ["--threads", str(threads), *([] if verify else ["--no-verify"])]
    changes = [part for change in run.settings for part in ("--set", change)]
    out = [[*base, "train", run.source, "--out", target, *common, *changes]]
    for options in run.evaluate:
        line = [*base, "evaluate", target, "--out", str(run.rows), "--name", run.name, *common]
        for key, value in options.items():
            if isinstance(value, bool):
                line.append(f"--{key}" if value else f"--no-{key}")
                continue
            for one in value if isinstance(value, list) else [value]:
                line += [f"--{key}", str(one)]
        out.append(line)
    return out


def call(line: list[str], until: float | None = None) -> int | None:
    """Run a command and return its exit code, or None if it was interrupted at time `until` (monotonic seconds).

    Ctrl-C, SIGTERM and a closed terminal stop the command too. An interrupted command keeps its results; this function
    waits until it ends, and then raises Interrupted if a signal was the reason.
    """
    process: subprocess.Popen[bytes] | None = None
    signals: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if process is not None:
            process.send_signal(signal.SIGINT)

    # `nohup` ignores SIGHUP, and that must remain so.
    closed = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    with received_by(pass_on, signal.SIGINT, signal.SIGTERM, *closed):
        # A group of its own, so that signals of the terminal reach it from here alone: a second one would make it stop
        # before its results are kept.
        process = subprocess.Popen(line, process_group=0)
        if signals:
            process.send_signal(signal.SIGINT)
        try:
            code = process.wait(timeout=None if until is None else max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            if not signals:
                process.send_signal(signal.SIGINT)
            process.wait()
            code = None
    if signals:
        raise Interrupted("the queue stopped; the same command continues it")
    return code


def work(
    runs: Iterable[Run],
    folder: Path,
    *,
    threads: int = 2,
    minutes: float | None = None,
    stretch: float | None = None,
    verify: bool = True,
) -> Iterator[Event]:
    """Train and measure unfinished runs one after the other, and yield the state of each.

    After `minutes` no further run starts. After `stretch` minutes the current run is interrupted, and the same call
    continues it. A run that fails does not stop the others.
    """
    started = time.monotonic()
    until = None if stretch is None else started + 60 * stretch
    for run in runs:
        if finished(run, folder):
            yield Event("done", run)
            continue
        if minutes is not None and (time.monotonic() - started) / 60 > minutes:
            yield Event("open", run, "no time left")
            continue
        yield Event("now", run)
        for line in commands(run, folder, threads, verify=verify):
            code = call(line, until)
            if code is None:
                yield Event("open", run, "the same command continues")
                return
            if code:
                yield Event("failed", run, " ".join(line))
                break
        else:
            kept = [*marks(run, folder), run.mark]
            write_text(folder / run.name / "done.json", json.dumps({"marks": kept}))
