"""What a person sees while a run works: a bar with loss, accuracies and ETA; lines where no screen is."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Show:
    """Callable with events of `train` and `evaluate`; a context manager around them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.spoke = False
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

    def __enter__(self) -> Show:
        self.bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        self.spoke = True
        kind = event["event"]
        if kind == "step":
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
        elif kind == "epoch":
            self.console.print(epoch_line(event))
        elif kind == "finished":
            self.console.print(f"{event['folder']}: this run is finished; nothing is done (--fresh starts it over)")
        elif kind == "calibration-failed":
            self.console.print(f"calibration-failed: {event['why']}; {event['model']} is the model as trained")
        elif kind == "not-saved":
            self.console.print(f"no model file is written: {event['why']}", markup=False)
        elif kind == "point" and not self.console.is_terminal:
            row = event["row"]
            at = " ".join(f"{k}={v:g}" for k, v in row.at.items())
            self.console.print(
                f"point {event['number']}/{event['of']} {at}: SA {row.clean_accuracy:.3f} "
                f"RA {row.robust_accuracy:.3f} ({row.seconds:.1f} s)"
            )

    def _advance(self, what: str, done: int, total: int, note: str) -> None:
        if self.task is None:
            self.task = self.bar.add_task(what, total=total, note=note)
        self.bar.update(self.task, completed=done, total=total, description=what, note=note)


def epoch_line(event: dict[str, Any]) -> str:
    """One epoch in one line."""
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
    line += f"  {event['seconds']:.0f} s"
    return line + (f"  raised: {', '.join(event['flags'])}" if event["flags"] else "")
