"""The time and the MACs of a point with live exits, by the share of images that take each exit.

The exit that an image takes decides which layers run, so no single image, and least of all noise, stands for others.
A single image costs the mean over the exits; of a batch the expected number leaves at each.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from rheostat.deploy.choosing import SPLIT
from rheostat.deploy.onnx_session import SessionModule
from rheostat.deploy.precisions import FULL
from rheostat.deploy.runtimes import Array, Graph
from rheostat.methods.exits import side_exits
from rheostat.models.artifact import About
from rheostat.models.costs import Latency, exit_costs, latency, live_exits, observe, sharing
from rheostat.models.folding import FoldedExits
from rheostat.models.tunable import AtPoint, Tunable
from rheostat.points.point import Point
from rheostat.results.row import Row

Shares = tuple[float, ...]
"""The share of images that leave at each exit of a point, the network's end last."""
Weights = Mapping[int, float]
"""Exit (0-based) → its share of the images; empty for a point without live exits, where all images cost the same."""
Plan = tuple[float, ...]
"""The fraction of the images that leave at each exit, of those that reach it."""
WHOLE: Weights = {}
"""The weights of a point without live exits."""
Key = TypeVar("Key", bound=Hashable)
RARE = 0.01
"""An exit that fewer images take has no part in the 99th percentile of the times of one image."""
LIMIT = 0.25
"""A threshold above the uncertainty of logits that are sure, and below that of equal ones, by every measure."""


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
        f"{', '.join(labels)}: it is not known which exits images take, so times and MACs are of images that no "
        f"exit lets leave early; rheostat evaluate RUN --split {SPLIT} measures it, and rheostat choose stores it with "
        "a point"
    )


def mean_macs(model: Tunable, point: Point, weights: Weights) -> float:
    """MACs of one image at a point, on average over the exits."""
    if not weights:
        return observe(model, model.net.image, point).macs
    macs = exit_costs(model, point).macs
    return sum(share * macs[k] for k, share in weights.items())


def ways(weights: Weights, batch: int) -> list[tuple[float, Plan | None]]:
    """The passes to time for a batch, each with the share of all passes that are like it; None: an ordinary one."""
    if not weights:
        return [(1.0, None)]
    if batch == 1:
        return [(share, _plan({k: 1.0})) for k, share in weights.items()]
    return [(1.0, _plan(weights))]


def _plan(shares: Mapping[int, float]) -> Plan:
    """The plan in which each exit takes its share of all images."""
    last = max(shares)
    reach = [sum(shares.get(k, 0.0) for k in range(first, last + 1)) for first in range(last + 1)]
    return tuple(shares.get(k, 0.0) / reach[k] for k in range(last + 1))


def leaving(form: nn.Module, plan: Plan | None) -> nn.Module:
    """A form of a point with live exits, on the same weights, whose images leave by plan; without one the form itself.

    It computes what the form computes, and then replaces the logits of the exits, so that it predicts nothing.
    """
    if plan is None:
        return form
    if isinstance(form, SessionModule):
        session = copy.copy(form.session)
        planned = [_PlannedGraph(stage, f) for stage, f in zip(session.stages, plan, strict=False)]
        session.stages = [*planned, *session.stages[len(plan) :]]
        session.thresholds = [LIMIT] * len(session.thresholds)
        return SessionModule(session)
    if isinstance(form, FoldedExits):
        stages: list[nn.Module] = [_Planned(stage, f) for stage, f in zip(form.stages, plan, strict=False)]
        limits = torch.full_like(form.thresholds, LIMIT)
        return FoldedExits([*stages, *list(form.stages)[len(plan) :]], limits, form.measure).eval()
    assert isinstance(form, AtPoint)
    model = sharing(form.model)
    model.net.get_buffer("thresholds").fill_(LIMIT)
    heads = side_exits(model.net)
    for k, fraction in enumerate(plan[: len(heads)]):
        heads[k] = _Planned(heads[k], fraction)
    return AtPoint(model, form.point, form.temperature)


@lru_cache(maxsize=256)
def _logits(rows: int, classes: int, fraction: float) -> Array:
    """Logits (rows, classes) that are sure for a fraction of the rows, evenly spread, and equal for the others."""
    before = np.floor(fraction * np.arange(rows + 1) + 0.5)
    found = np.zeros((rows, classes), np.float32)
    found[np.diff(before) > 0, 0] = 1e4
    return found


class _Planned(nn.Module):
    """A head, or a stage (features, logits), of which a fraction of the rows leaves."""

    def __init__(self, of: nn.Module, fraction: float) -> None:
        super().__init__()
        self.of, self.fraction = of, fraction

    def forward(self, *given: Any) -> Any:
        found = self.of(*given)
        own = found[1] if isinstance(found, tuple) else found
        logits = torch.from_numpy(_logits(*own.shape, self.fraction)).to(own)
        return (found[0], logits) if isinstance(found, tuple) else logits


class _PlannedGraph:
    """The same for a stage in a file."""

    def __init__(self, of: Graph, fraction: float) -> None:
        self.of, self.fraction = of, fraction
        self.description, self.precision = of.description, of.precision

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        features, logits = self.of.run(feed)
        return [features, _logits(*logits.shape, self.fraction)]


def planned(
    forms: Mapping[Key, nn.Module], weights: Mapping[Key, Weights], batch: int
) -> dict[tuple[Key, int], nn.Module]:
    """Every form in each of its `ways` at a size of batch, by the number of the way: what is to be timed."""
    return {
        (key, number): leaving(form, plan)
        for key, form in forms.items()
        for number, (_, plan) in enumerate(ways(weights[key], batch))
    }


def mean_latency(
    forms: Mapping[Key, nn.Module],
    weights: Mapping[Key, Weights],
    image: tuple[int, int, int],
    *,
    batch: int = 1,
    seconds: float = 2.0,
) -> dict[Key, Latency]:
    """`latency` of forms: of one image on average over the exits, of a batch of which each exit takes its share."""
    found = latency(planned(forms, weights, batch), image, batch=batch, seconds=seconds)
    return {
        key: _mean([(share, found[key, number]) for number, (share, _) in enumerate(ways(weights[key], batch))])
        for key in forms
    }


def _mean(parts: Sequence[tuple[float, Latency]]) -> Latency:
    """The mean of the times of the ways. The 99th percentile is that of the slowest way that is not rare."""

    def mean(name: str) -> float:
        return sum(share * float(getattr(time, name)) for share, time in parts)

    p99 = max(time.p99 for share, time in parts if share >= RARE)
    n = sum(time.n for _, time in parts)
    return replace(parts[0][1], median=mean("median"), low=mean("low"), high=mean("high"), p99=p99, n=n)
