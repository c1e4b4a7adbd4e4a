"""Named operating points, chosen from a run's rows and stored in the model's file with a fitted temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rheostat.calibration.temperature import calibrated
from rheostat.deploy.choosing import SPLIT, Candidate, Choice, LadderChoice, Need, choose, choose_ladder
from rheostat.evaluation.lookup import find_data, find_target
from rheostat.models import artifact
from rheostat.models.costs import latency
from rheostat.models.folding import foldable
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.row import Row
from rheostat.results.rows import read_rows


def rows_path(which: str, rows: Path | None = None) -> Path | None:
    """The given rows file, or that of a run's folder; None for a single model file."""
    return rows or (Path(which) / "rows.jsonl" if Path(which).is_dir() else None)


def own_rows(place: Path | None, digest: str) -> list[Row]:
    """The rows in a file that belong to the model with this hash; empty if there is no file."""
    return [] if place is None else [r for r in read_rows(place) if r.artifact == digest]


def rows_of(which: str, rows: Path | None) -> list[Row]:
    """The rows of a run that belong to its current model; raises ValueError that names the expected file."""
    place = rows_path(which, rows)
    if place is None or not place.is_file():
        raise ValueError(
            f"no rows beside {which}; measure with `rheostat evaluate {which} --split {SPLIT}`, or name a rows "
            "file with --rows"
        )
    own = artifact.digest(which)
    found = own_rows(place, own)
    if not found:
        raise ValueError(f"{place} has no rows of the model in {which} (hash {own})")
    return found


def latencies(model: Tunable, points: list[Point], *, seconds: float = 0.3) -> dict[Point, float]:
    """Median milliseconds of one image at each point, folded if possible; the points take turns."""
    modules: dict[str, nn.Module] = {p.label(): foldable(model, p) or model.at(p) for p in points}
    found = latency(modules, model.net.image, seconds=seconds) if modules else {}
    return {p: found[p.label()].median for p in points}


def choose_point(
    which: str,
    need: Need,
    *,
    maximise: str = "clean",
    confidence: float = 0.95,
    rows: Path | None = None,
    net: str | None = None,
) -> Choice:
    """The point of a run that meets every limit; see `choose`. Latency is measured if a limit or the goal needs it."""
    measured = rows_of(which, rows)
    times = None
    if need.max_latency is not None or maximise == "latency":
        times = _times_of(which, measured, net)
    return choose(measured, need, maximise=maximise, confidence=confidence, latencies=times)


def choose_ladder_points(
    which: str,
    need: Need,
    *,
    maximise: str = "clean",
    steps: int = 4,
    confidence: float = 0.95,
    rows: Path | None = None,
    net: str | None = None,
) -> LadderChoice:
    """The ladder of a run; see `choose_ladder`. Latency is measured on this machine."""
    measured = rows_of(which, rows)
    times = _times_of(which, measured, net)
    return choose_ladder(measured, need, latencies=times, maximise=maximise, steps=steps, confidence=confidence)


def _times_of(which: str, measured: list[Row], net: str | None) -> dict[Point, float]:
    """The latency of every point that has a row of the split `SPLIT`."""
    every = {Point(**r.at) for r in measured if r.split == SPLIT and r.at}
    return latencies(artifact.load(which, net=net), sorted(every, key=lambda p: p.label()))


def store_point(
    which: str,
    name: str,
    found: Candidate,
    choice: Choice | LadderChoice,
    *,
    data_dir: Path | None = None,
    verify: bool = True,
    net: str | None = None,
) -> dict[str, Any]:
    """Store a chosen point under a name in the model's file, with a fitted temperature; returns the stored numbers."""
    target = find_target(which, name=None, between=None, net=net)
    assert isinstance(target.model, Tunable)
    halves = [
        find_data(target, None, split, data_dir=data_dir, examples=None, verify=verify)
        for split in ("calibrate-fit", SPLIT)
    ]
    point = target.model.complete(found.point)
    numbers: dict[str, Any] = {
        "clean_accuracy": found.clean,
        "robust_accuracy": found.robust,
        "clean_bound": found.clean_bound,
        "robust_bound": found.robust_bound,
        "confidence": choice.confidence,
        "looked_at": choice.looked_at,
        "measured_under": list(found.attacks),
        "tier": found.tier,
        "split": SPLIT,
        "n": found.n,
        "macs": found.macs,
        "latency_ms": found.latency,
        "flags": list(found.flags),
        **calibrated(target.model, point, *halves),
    }
    artifact.name_point(which, name, point, numbers, net=net)
    return numbers


def _line(what: str, c: Candidate) -> str:
    cost = f"{c.macs / 1e6:.2f} M MACs" + ("" if c.latency is None else f", {c.latency:.2f} ms")
    raised = f"; flags: {', '.join(c.flags)}" if c.flags else ""
    return (
        f"{what}: {c.point.label()}: clean {100 * c.clean:.1f} % (≥ {100 * c.clean_bound:.1f}), robust "
        f"{100 * c.robust:.1f} % (≥ {100 * c.robust_bound:.1f}) measured under {', '.join(c.attacks)}; "
        f"{cost}{raised}"
    )


def _bounds(looked_at: int, confidence: float) -> str:
    return (
        f"Bounds (≥) hold simultaneously for all {looked_at} points at {100 * confidence:g} %: one-sided, "
        "exact, with a Bonferroni correction. Robust accuracies are upper bounds under the attacks named: a "
        "stronger attack can only lower them."
    )


def ladder_lines(choice: LadderChoice, names: Sequence[str]) -> list[str]:
    """A ladder as lines of text."""
    lines = [_line(f"step {name}", c) for name, c in zip(names, choice.points, strict=True)]
    return [*lines, *(_line("front", c) for c in choice.front), _bounds(choice.looked_at, choice.confidence)]


def choice_lines(choice: Choice) -> list[str]:
    """A choice as lines of text; robust accuracy is measured, never guaranteed."""
    lines = []
    if choice.chosen is not None:
        lines.append(_line("chosen", choice.chosen))
        if choice.runner_up is not None:
            lines.append(_line("runner-up", choice.runner_up))
    elif choice.closest is not None:
        lacks = choice.closest.lacks(choice.need)
        missed = ", ".join(f"{k.replace('_', '-')} missed by {100 * v:.1f} %" for k, v in lacks.items())
        lines += ["no measured point meets every limit", f"{_line('closest', choice.closest)}; {missed}"]
    lines += [_line("front", c) for c in choice.front]
    return [*lines, _bounds(choice.looked_at, choice.confidence)]
