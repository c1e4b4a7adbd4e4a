"""Named operating points, chosen from a run's rows and stored in the model's file with a fitted temperature."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from rheostat.calibration.temperature import calibrated, logits_of
from rheostat.data import Dataset, subset, to_pixels
from rheostat.deploy.choosing import SPLIT, Candidate, Choice, Need, choose
from rheostat.deploy.ladders import LadderChoice
from rheostat.deploy.leaving import Shares, mean_latency, measured_shares, weights_of, without_shares
from rheostat.deploy.onnx_session import SessionModule
from rheostat.deploy.precisions import CALIBRATED_ON, FULL, SERVED, open_in, write_in
from rheostat.evaluation.lookup import find_data, find_target
from rheostat.evaluation.target import Target
from rheostat.models import artifact
from rheostat.models.factories import Factory
from rheostat.models.folding import foldable
from rheostat.models.quantised_files import beside
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import share
from rheostat.results.row import Row
from rheostat.results.rows import read_rows
from rheostat.runtime.files import write_bytes

IN_PYTHON = "store the point in Python: store_point(..., images=(fit, choose))"
"""How a point is named whose model does not record its images."""
WITHIN = 0.005
"""How far the clean accuracy of a file in a lower precision may lie from that of its row, on the same images."""


def rows_path(which: str | Path, rows: Path | None = None) -> Path | None:
    """The given rows file, or that of a run's folder; None for a single model file."""
    return rows or (Path(which) / "rows.jsonl" if Path(which).is_dir() else None)


def own_rows(place: Path | None, digest: str) -> list[Row]:
    """The rows in a file that belong to the model with this hash; empty if there is no file."""
    return [] if place is None else [r for r in read_rows(place) if r.artifact == digest]


def rows_of(which: str | Path, rows: Path | None) -> list[Row]:
    """The rows of a run that belong to its current model; raises ValueError that names the expected file."""
    place = rows_path(which, rows)
    if rows is not None and not rows.is_file():
        raise ValueError(f"no file {rows}")
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


def latencies(
    model: Tunable, points: list[Point], *, seconds: float = 0.3, shares: Mapping[Point, Shares] = MappingProxyType({})
) -> dict[Point, float]:
    """Median milliseconds of one image at each point, folded if possible; the points take turns.

    `shares` are the shares of images by exit, for points with live exits.
    """
    modules: dict[Point, nn.Module] = {p: foldable(model, p) or model.at(p) for p in points}
    weights = {p: weights_of(model, p, shares) for p in points}
    found = mean_latency(modules, weights, model.net.image, seconds=seconds) if modules else {}
    return {p: found[p].median for p in points}


def known_shares(model: Tunable, points: Iterable[Point], rows: Iterable[Row]) -> dict[Point, Shares]:
    """The shares of images by exit that rows state; ValueError if a point with live exits has none."""
    found = measured_shares(rows)
    if missing := without_shares(model, points, found):
        raise ValueError(
            f"the rows of {missing[0].label()} do not say which exits images take, so it cannot be timed; measure it "
            f"again (rheostat evaluate --fresh --split {SPLIT})"
        )
    return found


def choose_point(
    which: str | Path,
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


def _times_of(which: str | Path, measured: list[Row], net: str | None) -> dict[Point, float]:
    """The latency of every point that has a row in fp32 of the split `SPLIT`."""
    own = (r for r in measured if r.split == SPLIT and r.attack.name == "worst" and r.knowledge == "known")
    every = {Point(**r.at) for r in own if r.precision == FULL and r.rule is None}
    model = artifact.load(which, net=net).to("cpu")  # the factory of a network may put it on a GPU
    return latencies(model, sorted(every, key=lambda p: p.label()), shares=known_shares(model, every, measured))


def store_point(
    which: str | Path,
    name: str,
    found: Candidate,
    choice: Choice | LadderChoice,
    *,
    images: tuple[Dataset, Dataset] | None = None,
    data_dir: Path | None = None,
    verify: bool = True,
    net: nn.Module | Factory | str | None = None,
) -> dict[str, Any]:
    """Store a chosen point under a name in the model's file, with a fitted temperature; returns the stored numbers.

    The arguments are those of `store_points`, which stores several points.
    """
    return store_points(which, {name: found}, choice, images=images, data_dir=data_dir, verify=verify, net=net)[name]


def store_points(
    which: str | Path,
    chosen: Mapping[str, Candidate],
    choice: Choice | LadderChoice,
    *,
    images: tuple[Dataset, Dataset] | None = None,
    data_dir: Path | None = None,
    verify: bool = True,
    net: nn.Module | Factory | str | None = None,
) -> dict[str, dict[str, Any]]:
    """Store chosen points under their names in the model's file; returns the stored numbers of each.

    `images` are those to fit temperatures on and those that the points were chosen on. By default they are the splits
    of the model's recipe; a model that `fit` trained has none, so give them. A point in a lower precision is stored
    with it; the file of an int8 point is written beside the model's file. Nothing is written before every point is
    known to be good. Raises ValueError for a name that cannot be, for a model that ships, for a point that was measured
    on another model, and if a file is not as accurate as its row says, because another machine runs it differently.
    """
    for name in chosen:
        artifact.check_nameable(which, name)
    target = find_target(str(which), name=None, between=None, net=net)
    assert isinstance(target.model, Tunable)
    for name, found in chosen.items():
        if found.artifact not in (None, target.hash):
            raise ValueError(
                f"{name!r} was measured on another model ({found.artifact}) than that in {which} ({target.hash}); "
                "measure this one and choose again"
            )
    halves = images or tuple(
        find_data(target, None, split, data_dir=data_dir, examples=None, verify=verify, otherwise=IN_PYTHON)
        for split in ("calibrate-fit", SPLIT)
    )
    numbers: dict[str, dict[str, Any]] = {}
    files: dict[str, bytes] = {}
    for name, found in chosen.items():
        if found.precision == FULL:
            module: nn.Module = target.model.at(found.point)
        else:
            module, content = _lower(target, name, found, *halves)
            if SERVED[found.precision].quantised:
                files[name] = content
        numbers[name] = _numbers(found, choice) | calibrated(module, *halves)
    for name, content in files.items():
        write_bytes(beside(artifact.locate(which), name), content)
    for name, found in chosen.items():
        artifact.name_point(which, name, target.model.complete(found.point), numbers[name], net=net)
    return numbers


def _numbers(found: Candidate, choice: Choice | LadderChoice) -> dict[str, Any]:
    """What is stored of a candidate beside its point and temperature."""
    return {
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
        **({} if found.precision == FULL else {"precision": found.precision}),
        **({} if found.exit_shares is None else {"exit_shares": list(found.exit_shares)}),
    }


def _lower(target: Target, name: str, found: Candidate, *halves: Dataset) -> tuple[nn.Module, bytes]:
    """The module of a point in a lower precision, and the content of its file."""
    assert isinstance(target.model, Tunable)
    images = to_pixels(subset(halves[0], CALIBRATED_ON).images)
    with tempfile.TemporaryDirectory() as folder:
        made = write_in(
            found.precision,
            target.model,
            target.about,
            Path(folder) / "x.onnx",
            at=found.point,
            images=images,
            artifact=target.hash,
        )
        module = SessionModule(open_in(found.precision, made))
        sample = subset(halves[1], found.n)
        clean = share(logits_of(module, sample).argmax(1) == sample.labels)
        if abs(clean - found.clean) > WITHIN:
            raise ValueError(
                f"{name!r} in {found.precision} has a clean accuracy of {100 * clean:.1f} % here and "
                f"{100 * found.clean:.1f} % in its row: this machine runs it differently, so measure it here (rheostat "
                f"evaluate --fresh --precision {found.precision})"
            )
        return module, made.read_bytes()


def candidate_line(what: str, c: Candidate) -> str:
    """A candidate with its bounds and costs as one line of text."""
    cost = f"{c.macs / 1e6:.2f} M MACs" + ("" if c.latency is None else f", {c.latency:.2f} ms")
    where = "" if c.precision == FULL else f" in {c.precision}"
    raised = f"; flags: {', '.join(c.flags)}" if c.flags else ""
    return (
        f"{what}: {c.point.label()}{where}: clean {100 * c.clean:.1f} % (≥ {100 * c.clean_bound:.1f}), robust "
        f"{100 * c.robust:.1f} % (≥ {100 * c.robust_bound:.1f}) measured under {', '.join(c.attacks)}; "
        f"{cost}{raised}"
    )


def bounds_line(looked_at: int, confidence: float) -> str:
    """What the bounds of a choice mean."""
    return (
        f"Bounds (≥) hold simultaneously for all {looked_at} points at {100 * confidence:g} %: one-sided, "
        "exact, with a Bonferroni correction. Robust accuracies are upper bounds under the attacks named: a "
        "stronger attack can only lower them."
    )


def choice_lines(choice: Choice) -> list[str]:
    """A choice as lines of text; robust accuracy is measured, never guaranteed."""
    lines = []
    if choice.chosen is not None:
        lines.append(candidate_line("chosen", choice.chosen))
        if choice.runner_up is not None:
            lines.append(candidate_line("runner-up", choice.runner_up))
    elif choice.closest is not None:
        lacks = choice.closest.lacks(choice.need)
        missed = ", ".join(f"{k.replace('_', '-')} missed by {100 * v:.1f} %" for k, v in lacks.items())
        lines += ["no measured point meets every limit", f"{candidate_line('closest', choice.closest)}; {missed}"]
    lines += [candidate_line("front", c) for c in choice.front]
    return [*lines, bounds_line(choice.looked_at, choice.confidence)]
