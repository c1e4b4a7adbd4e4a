"""Progress of a run: a bar with the remaining time on a terminal, else a line at regular intervals."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 20.0
"""Seconds between lines when there is no terminal to show a bar."""
SURE = 2.0
"""Seconds of work before the remaining time is estimated."""


class Show:
    """A context manager that is called with the events of `train` and `evaluate` and shows them.

    With `lines` it prints a line after each epoch and point; without, it shows only the bar.
    """

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        self.console, self.lines = console, lines
        self.spoke = False
        self.saved = True
        """Whether the run has a model file, as far as its events say."""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: Any = None
        self.pace: Pace | None = None

    def __enter__(self) -> Show:
        self.bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        self.spoke = True
        kind = event["event"]
        if kind == "plan" and self.lines:
            self.console.print(plan_line(event), markup=False)
        elif kind == "step":
            clean = event.get("clean", 0) / max(event.get("clean_n", 0), 1)
            robust = event.get("robust", 0) / max(event.get("robust_n", 0), 1)
            self._advance(
                "training",
                event["step"],
                event["total"],
                f"loss {event['mean_loss']:.3f} SA {clean:.2f} RA {robust:.2f}",
            )
        elif kind == "chunk":
            self._advance("measuring", event["done"], event["total"], "")
        elif kind == "epoch" and self.lines:
            self.console.print(epoch_line(event))
        elif kind == "precision" and self.lines:
            self.console.print(f"training in {event['precision']}: {event['why']}", markup=False)
        elif kind == "dial" and self.lines:
            self.console.print(dial_line(event), markup=False)
        elif kind == "finished":
            self.console.print(f"{event['folder']}: this run is already finished (--fresh starts it over)")
        elif kind == "calibration-failed":
            self.console.print(f"calibration-failed: {event['why']}; {event['model']} holds the uncalibrated model")
        elif kind == "not-saved":
            self.saved = False
            self.console.print(f"no model file is written: {event['why']}", markup=False)
        elif kind == "no-file":
            self.console.print(f"no file is timed: {event['why']}", markup=False)
        elif kind == "point" and self.lines and not self.console.is_terminal:
            row = event["row"]
            at = " ".join(f"{k}={v:g}" for k, v in row.at.items())
            self.console.print(
                f"point {event['number']}/{event['of']} {at}: SA {row.clean_accuracy:.3f} "
                f"RA {row.robust_accuracy:.3f} ({row.seconds:.1f} s)"
            )

    def _advance(self, what: str, done: float, total: float, note: str) -> None:
        if self.pace is None:
            self.pace = Pace(what, time.monotonic(), done)
            self.task = self.bar.add_task(what, total=total, note=note)
        self.bar.update(self.task, completed=done, total=total, description=what, note=note)
        # The first line estimates the total time; the others replace the bar if there is no terminal.
        line = self.pace.line(done, total, time.monotonic())
        if line is not None and (not self.console.is_terminal or (self.lines and self.pace.said == 1)):
            self.console.print(line, markup=False)


class Pace:
    """The speed of the work so far, from which the remaining time is estimated."""

    def __init__(self, what: str, now: float, done: float) -> None:
        self.what, self.since, self.begun = what, now, done
        self.last, self.said = now, 0

    def line(self, done: float, total: float, now: float) -> str | None:
        """A line if one is due, else None: the first after SURE seconds of work, then one every EVERY seconds."""
        if done <= self.begun or done >= total or now - self.since < SURE:
            return None
        if self.said and now - self.last < EVERY:
            return None
        rest = (total - done) * (now - self.since) / (done - self.begun)
        if not self.said and rest < EVERY:
            return None
        self.last, self.said = now, self.said + 1
        return f"{self.what} {done}/{total}, about {duration(rest)} to go"


def duration(seconds: float) -> str:
    """A duration as text: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_line(event: dict[str, Any]) -> str:
    """The size of a measurement as text: points × attacks × images, or points × batch sizes."""
    parts = [
        f"{event[k]} {k if event[k] != 1 else k[:-1]}"
        for k in ("points", "attacks", "corruptions", "images", "batch sizes")
        if k in event
    ]
    return "measuring " + " × ".join(parts)


def dial_line(event: dict[str, Any]) -> str:
    """The calibration of the dial as one line, with the interval of the highest RA."""
    (first, top), (low, high) = event["robust_accuracy"], event["interval"]
    return (
        f"dial calibrated at {event['places']} places on {event['images']} images: RA {first:.3f} to {top:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f})"
    )


def epoch_line(event: dict[str, Any]) -> str:
    """The results of one epoch as one line."""
    line = (
        f"epoch {event['epoch']}/{event['epochs']}  loss {event['loss']:.3f}  train SA "
        f"{event['train_clean_accuracy']:.3f} RA {event['train_robust_accuracy']:.3f}"
    )
    if "calibrate" in event:
        first, last = event["calibrate"][0], event["calibrate"][-1]
        line += (
            f"  calibrate SA {first['clean_accuracy']:.3f}…{last['clean_accuracy']:.3f} RA "
            f"{first['robust_accuracy']:.3f}…{last['robust_accuracy']:.3f}"
        )
    if "weights" in event:
        line += f" ({event['weights']} weights)"
    line += f"  {event['seconds']:.0f} s"
    return line + (f"  raised: {', '.join(event['flags'])}" if event["flags"] else "")
