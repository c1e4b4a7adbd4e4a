"""A ladder chosen from a run's rows in every precision that was measured, with the time of each file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rheostat.deploy.bench_times import UNKNOWN, Wanted, fastest_times
from rheostat.deploy.choosing import SPLIT, Need
from rheostat.deploy.fastest import sessions_of
from rheostat.deploy.ladders import LadderChoice, choose_ladder
from rheostat.deploy.leaving import Shares, mean_latency, weights_of
from rheostat.deploy.named_points import bounds_line, candidate_line, known_shares, latencies, rows_of
from rheostat.deploy.onnx_session import SessionModule
from rheostat.deploy.precisions import FULL, LOWER, SERVED, Key, lacking, open_in, write_in
from rheostat.models import artifact
from rheostat.models.costs import live_exits
from rheostat.models.folding import foldable
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.row import Row
from rheostat.runtime.seeding import stream


@dataclass(frozen=True)
class Sources:
    """Where a ladder comes from: a model by its name or path, and its files of rows and of `rheostat bench` times.

    Without `rows` the run's own file is read; without `costs` each point is timed here. `net` names the factory of an
    adopted model's network.
    """

    which: str | Path
    rows: Path | None = None
    costs: Path | None = None
    net: str | None = None


@dataclass(frozen=True)
class FoundLadder:
    """A chosen ladder and the lines of text on what was left out. `in_torch`: its points were timed in torch."""

    choice: LadderChoice
    notes: tuple[str, ...]
    in_torch: bool


def choose_ladder_points(
    sources: Sources, need: Need, *, maximise: str = "clean", steps: int = 4, confidence: float = 0.95
) -> FoundLadder:
    """The ladder of a run over its points and precisions.

    A point takes part in a precision only if SA and RA were measured in it (`rheostat evaluate --precision`) and this
    machine can run it. Beside files, or with times from `bench`, a point that has no file takes no part.
    """
    rows = rows_of(sources.which, sources.rows)
    keys, notes = _measured(rows)
    model, about = artifact.load_with(sources.which, net=sources.net)
    model.to("cpu")  # the factory of a network may put it on a GPU
    if sources.costs or any(precision != FULL for _, precision in keys):
        # These times are of files, and a point without a file has none.
        lost = [p for p, precision in keys if precision == FULL and foldable(model, p) is None]
        keys = [key for key in keys if key[0] not in lost]
        rows = [r for r in rows if Point(**r.at) not in lost]
        if lost:
            labels = ", ".join(p.label() for p in lost)
            notes.append(f"{FULL} is left out at {labels}: no one file gives it; only serve --backend torch serves it")
            if not keys:
                raise ValueError("; ".join(notes))
    times, more = _from_rows(sources, model, keys) if sources.costs else _timed(model, about, keys, rows)
    choice = choose_ladder(rows, need, latencies=times, maximise=maximise, steps=steps, confidence=confidence)
    return FoundLadder(choice, (*notes, *more), bool(more) and not sources.costs)


def serve_command(sources: Sources, found: FoundLadder, names: Sequence[str]) -> str:
    """The command that serves a stored ladder."""
    net = f" --net {sources.net}" if sources.net else ""
    backend = " --backend torch" if found.in_torch else ""
    return f"rheostat serve {sources.which} --ladder {','.join(names)}{net}{backend}"


def _measured(rows: Iterable[Row]) -> tuple[list[Key], list[str]]:
    """The points and precisions that were measured and can run here; a line for each precision that is left out."""
    chosen = [r for r in rows if r.split == SPLIT and r.attack.name == "worst" and r.knowledge == "known"]
    keys = dict.fromkeys((Point(**r.at), r.precision) for r in chosen if r.precision in SERVED and r.rule is None)
    notes = []
    for precision in LOWER:
        own = [p for p, found in keys if found == precision]
        alone = [p.label() for p in own if (p, FULL) not in keys]
        if problem := lacking(precision):
            notes.append(f"{precision} is left out: {problem}")
            keys = {k: None for k in keys if k[1] != precision}
        elif not own:
            notes.append(
                f"{precision} is left out: SA and RA were not measured in it (rheostat evaluate --split {SPLIT} "
                f"--precision {precision})"
            )
        elif alone:
            notes.append(f"{precision} is left out at {', '.join(alone)}: the point was not measured in {FULL}")
            keys = {k: None for k in keys if k[1] != precision or (k[0], FULL) in keys}
    return list(keys), notes


def _from_rows(sources: Sources, model: Tunable, keys: Sequence[Key]) -> tuple[dict[Key, float], list[str]]:
    """Milliseconds of one image in the fastest form of each precision, as `rheostat bench --out` wrote them."""
    assert sources.costs is not None
    wanted = {
        (p, precision): Wanted(p.label(), p.numbers(), SERVED[precision].forms, live_exits(model, p) > 0)
        for p, precision in keys
    }
    found = fastest_times(sources.costs, wanted, artifact=artifact.digest(sources.which))
    if any(times.milliseconds[0][0] != 1 for times in found.values()):
        raise ValueError(f"{sources.costs}: a row without the time of one image")
    late = dict.fromkeys(p.label() for (p, _), times in found.items() if not times.early)
    notes = [f"{', '.join(late)}: {sources.costs} {UNKNOWN}"] if late else []
    return {key: times.milliseconds[0][1] for key, times in found.items()}, notes


def _timed(
    model: Tunable, about: artifact.About, keys: Sequence[Key], rows: Iterable[Row]
) -> tuple[dict[Key, float], list[str]]:
    """Milliseconds of one image here, in the form that is served, and a line if that is torch.

    That is a file. If a point of a ladder in fp32 alone has none, every point is timed in torch.
    """
    shares = known_shares(model, [p for p, _ in keys], rows)
    try:
        return _timed_as_files(model, about, keys, shares), []
    except ValueError as problem:
        if any(precision != FULL for _, precision in keys):
            raise
        note = f"timed in torch, so serve the ladder with --backend torch: {problem}"
    points = sorted((p for p, _ in keys), key=Point.label)
    return {(p, FULL): ms for p, ms in latencies(model, points, shares=shares).items()}, [note]


def _timed_as_files(
    model: Tunable, about: artifact.About, keys: Sequence[Key], shares: Mapping[Point, Shares]
) -> dict[Key, float]:
    """Milliseconds of one image as a file; in fp32 under the fastest runtime that is installed, as a server does it."""
    # The time of an int8 file does not depend on its ranges, so noise can give them.
    noise = torch.rand(64, *model.net.image, generator=stream("times"))
    threads = torch.get_num_threads()
    forms: dict[tuple[Key, str], nn.Module] = {}
    with tempfile.TemporaryDirectory() as folder:
        written: dict[tuple[Point, bool], Path] = {}  # one file serves several precisions
        for number, (point, precision) in enumerate(keys):
            form, out = (point, SERVED[precision].quantised), Path(folder) / f"{number}.onnx"
            if form not in written:
                written[form] = write_in(precision, model, about, out, at=point, images=noise)
            if precision == FULL:
                opened = sessions_of(written[form], precision="fp32", threads=threads)
            else:
                opened = {"": open_in(precision, written[form], threads=threads, spin=False)}
            forms |= {((point, precision), name): SessionModule(session) for name, session in opened.items()}
        weights = {form: weights_of(model, form[0][0], shares) for form in forms}
        found = mean_latency(forms, weights, model.net.image, seconds=0.3)
    return {key: min(time.median for (own, _), time in found.items() if own == key) for key in keys}


def ladder_lines(choice: LadderChoice, names: Sequence[str], notes: Sequence[str] = ()) -> list[str]:
    """A ladder as lines of text, and what was left out."""
    lines = [candidate_line(f"step {name}", c) for name, c in zip(names, choice.points, strict=True)]
    front = [candidate_line("front", c) for c in choice.front]
    return [*lines, *front, bounds_line(choice.looked_at, choice.confidence), *notes]
