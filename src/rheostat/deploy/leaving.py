"""The time and the MACs of a point with live exits: those of every exit, weighed by the share of images that take it.

The exit that an image takes decides which layers run, so no single image, and least of all noise, stands for others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from rheostat.deploy.choosing import SPLIT
from rheostat.deploy.onnx_session import SessionModule
from rheostat.deploy.precisions import FULL
from rheostat.models.artifact import About
from rheostat.models.costs import Latency, exit_costs, latency, live_exits, observe, sharing
from rheostat.models.folding import FoldedExits
from rheostat.models.tunable import AtPoint, Tunable
from rheostat.points.point import Point
from rheostat.results.row import Row

Shares = tuple[float, ...]
"""The share of images that leave at each exit of a point, the network's end last."""
Weights = Mapping[int | None, float]
"""Exit (0-based) → its share of the images."""
WHOLE: Weights = {None: 1.0}
"""The weights of a point without live exits, where all images cost the same."""
Key = TypeVar("Key", bound=Hashable)
RARE = 0.01
"""An exit that fewer images take has no part in the 99th percentile of the times of one image."""


def measured_shares(rows: Iterable[Row]) -> dict[Point, Shares]:
    """The shares of clean images by exit, of each point in the rows: fp32 on `SPLIT`, on the most images."""
    own = (r for r in rows if r.split == SPLIT and r.precision == FULL and r.rule is None)
    return {
        Point(**r.at): tuple(r.exit_shares.clean)
        for r in sorted(own, key=lambda r: r.n)
        if r.exit_shares is not None and r.exit_shares.clean
    }


def stored_shares(model: Tunable, about: About) -> dict[Point, Shares]:
    """The shares that are stored with the named points of a model."""
    found = {name: numbers.get("exit_shares") for name, numbers in about.measured.items()}
    return {model.points[name]: tuple(shares) for name, shares in found.items() if shares and name in model.points}


def weights_of(model: Tunable, point: Point, known: Mapping[Point, Shares]) -> Weights:
    """The exits that the costs of a point are made of, with their shares.

    If the point has live exits and its shares are not known, no image leaves early: the last exit has the share 1.
    """
    point = model.complete(point)
    exits = live_exits(model, point)
    if not exits:
        return WHOLE
    return {k: share for k, share in enumerate(known[point]) if share} if point in known else {exits - 1: 1.0}


def without_shares(model: Tunable, points: Iterable[Point], known: Mapping[Point, Shares]) -> list[Point]:
    """The points with live exits whose shares are not known."""
    return [p for p in points if live_exits(model, p) and model.complete(p) not in known]


def unknown_line(labels: Iterable[str]) -> str:
    """What it means for the costs of these points that their shares are not known."""
    return (
        f"{', '.join(labels)}: it is not known which exits images take, so times and MACs are of images that leave "
        f"early at none; rheostat evaluate RUN --split {SPLIT} measures it, and rheostat choose stores it with a point"
    )


def mean_macs(model: Tunable, point: Point, weights: Weights) -> float:
    """MACs of one image at a point, on average over the exits."""
    if weights == WHOLE:
        return observe(model, model.net.image, point).macs
    macs = exit_costs(model, point).macs
    return sum(share * macs[k] for k, share in weights.items() if k is not None)


def leaving(form: nn.Module, leave: int | None) -> nn.Module:
    """A form of a point with live exits, on the same weights, in which every image leaves at one exit (0-based).

    It computes what the form computes up to there, also whether an image leaves. Without an exit it is the form itself.
    """
    if leave is None:
        return form
    if isinstance(form, SessionModule):
        limits = _all_at(leave, len(form.session.thresholds))
        return SessionModule(form.session.with_thresholds(limits))
    if isinstance(form, FoldedExits):
        own = torch.tensor(_all_at(leave, len(form.thresholds))).to(form.thresholds)
        return FoldedExits(list(form.stages), own, form.measure).eval()
    assert isinstance(form, AtPoint)
    model = sharing(form.model)
    thresholds = model.net.get_buffer("thresholds")
    thresholds.copy_(torch.tensor(_all_at(leave, len(thresholds))))
    return AtPoint(model, form.point, form.temperature)


def _all_at(leave: int, count: int) -> list[float]:
    """Thresholds of `count` side exits with which every image leaves at one exit, or at the network's end."""
    return [math.inf if k == leave else -math.inf for k in range(count)]


def by_exit(forms: Mapping[Key, nn.Module], weights: Mapping[Key, Weights]) -> dict[tuple[Key, int | None], nn.Module]:
    """Every form as it runs for the images of each of its exits: what is to be timed."""
    return {(key, k): leaving(form, k) for key, form in forms.items() for k in weights[key]}


def mean_latency(
    forms: Mapping[Key, nn.Module],
    weights: Mapping[Key, Weights],
    image: tuple[int, int, int],
    *,
    batch: int = 1,
    seconds: float = 2.0,
) -> dict[Key, Latency]:
    """`latency` of forms, on average over the exits that images take.

    A pass of a batch is counted as if all its images left at one exit. That is exact for one image, and for batches
    that are so large that the time of a layer is proportional to the images that reach it.
    """
    found = latency(by_exit(forms, weights), image, batch=batch, seconds=seconds)
    return {key: _mean([(share, found[key, k]) for k, share in weights[key].items()]) for key in forms}


def _mean(parts: Sequence[tuple[float, Latency]]) -> Latency:
    """The mean of the times of the exits. The 99th percentile of single images is that of the slowest common exit."""

    def mean(name: str) -> float:
        return sum(share * float(getattr(time, name)) for share, time in parts)

    first = parts[0][1]
    p99 = max(time.p99 for share, time in parts if share >= RARE) if first.batch == 1 else mean("p99")
    n = sum(time.n for _, time in parts)
    return replace(first, median=mean("median"), low=mean("low"), high=mean("high"), p99=p99, n=n)
