"""Points × common corruptions → rows: standard accuracy on corrupted images, without an adversary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.data import Dataset, to_pixels
from rheostat.data.corruptions import CORRUPTIONS, corrupt
from rheostat.evaluation.arguments import Points, at_points
from rheostat.evaluation.attacked import chunks, victim_at
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.rows import RowBuilder
from rheostat.evaluation.scoring import by_exit
from rheostat.evaluation.stale import check_fit, stored_rows
from rheostat.evaluation.target import Target
from rheostat.models.costs import exit_costs, observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.bits import Pair
from rheostat.results.corrupted import TIER
from rheostat.results.row import AttackEntry, CorruptionEntry, Measurement, Row
from rheostat.results.rows import add_rows, read_rows
from rheostat.runtime.choices import check_choice
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.interrupts import Interrupted, breakable
from rheostat.runtime.precision import full_precision
from rheostat.runtime.seeding import stream

SEVERITIES = (1, 3, 5)
NOBODY = AttackEntry(name="corruption", eps=0.0, norm="linf")
Job = tuple[Point | None, Measurement]
Clean = tuple[Tensor, dict[str, Any]]
"""What the clean images give at a point: the bits, and the fields of a row on cost."""


@full_precision()
def evaluate_corruptions(
    model: nn.Module | Target,
    points: Points,
    data: Dataset,
    *,
    severities: Sequence[int] = SEVERITIES,
    kinds: Sequence[str] | None = None,
    options: EvaluationOptions | None = None,
    ranks: Ranks | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> list[Row]:
    """One row for every point, severity (1 to 5) and kind: SA on the clean and on the corrupted images.

    `model`, `points` and `options` are as in `evaluate`; options of attacks have no effect. `kinds` are all kinds by
    default. `rheostat.data.corruptions` makes the images from those of `data` with `options.seed`. With `options.out`
    the rows of each corruption are appended to that file once measured, and rows that it already holds are not
    measured again. Several ranks divide the corruptions. Raises ValueError for an unknown kind or severity, if the
    file holds rows of another model, or if `options.split` is not the split of the data; on Ctrl-C raises Interrupted,
    which says what is kept.
    """
    ranks = ranks or Ranks()
    options = replace(options or EvaluationOptions(), tier=TIER, attack_precision="fp32")
    target, asked = at_points(model, points, options.name)
    if ranks.world > 1 and options.out is None:
        raise ValueError("several ranks exchange rows through a file; give `out`")
    names = [_kind(name) for name in (CORRUPTIONS if kinds is None else kinds)]
    wanted = [CorruptionEntry(name=name, severity=_severity(s)) for s in severities for name in names]
    check_fit(target, data)
    device = next((p.device for p in target.model.parameters()), torch.device("cpu"))
    builder = RowBuilder(target, data.to(device), options)
    plan = [[(point, _measurement(builder, point, what)) for point in asked] for what in wanted]
    done = stored_rows(builder, [of.identity for jobs in plan for _, of in jobs], ranks)
    ranks.wait()
    left = [jobs for jobs in ([j for j in jobs if j[1].identity not in done] for jobs in plan) if jobs]
    if report is not None and left:
        report({"event": "plan", "points": len(asked), "corruptions": len(wanted), "images": len(data)})
    clean: dict[str, Clean] = {}
    own = left[ranks.rank :: ranks.world]
    if report is not None and own:
        report({"event": "chunk", "done": 0, "total": len(own)})  # work is timed from here
    for number, jobs in enumerate(own):
        try:
            with breakable():
                found = _measured(builder, jobs, clean)
        except KeyboardInterrupt:
            raise Interrupted(_stopped(builder, number, len(own))) from None
        done |= {row.identity: row for row, _ in found}
        if options.out is not None:
            add_rows(options.out, [row for row, _ in found], {row.identity: bits for row, bits in found})
        if report is not None:
            report({"event": "chunk", "done": number + 1, "total": len(own)})
    ranks.wait()
    if not ranks.first:
        return []
    if ranks.world > 1 and options.out is not None:
        done = {r.identity: r for r in read_rows(options.out)}
    return [done[of.identity] for jobs in plan for _, of in jobs]


def _kind(name: str) -> str:
    check_choice("evaluate", "corruption", name, CORRUPTIONS)
    return name


def _severity(value: int) -> int:
    if value not in range(1, 6):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, given {value!r}")
    return value


def _measurement(builder: RowBuilder, point: Point | None, what: CorruptionEntry) -> Measurement:
    at = point.numbers() if point is not None else {}
    return builder.measurement(at, NOBODY, knowledge="none").model_copy(update={"corruption": what})


def _measured(builder: RowBuilder, jobs: list[Job], clean: dict[str, Clean]) -> list[tuple[Row, Pair]]:
    """The rows and bits of one corruption at its points; `clean` caches by point what the clean images give."""
    what = jobs[0][1].corruption
    assert what is not None
    data, seed = builder.dataset, builder.options.seed
    images = corrupt(data.images, what.name, severity=what.severity, seed=seed).to(data.images.device)
    flags = builder.target.flags  # those of training; the checks of an evaluation are of attacks
    rows = []
    for point, of in jobs:
        label = point.label() if point is not None else ""
        if label not in clean:
            clean[label] = _right(builder, point, data.images, (seed, label, "clean")), _cost(builder, point)
        bits, cost = clean[label]
        right = _right(builder, point, images, (seed, label, what.name, what.severity))
        rows.append((builder.row(of, bits, right, **cost, flags=flags), (bits, right)))
    return rows


def _cost(builder: RowBuilder, point: Point | None) -> dict[str, Any]:
    """The fields of a row on cost; with live exits by the exits that the clean images take."""
    model, data = builder.target.model, builder.dataset
    cost = observe(model, data.image, point)
    fields: dict[str, Any] = {
        "params": cost.params,
        "nonzeros": cost.nonzeros,
        "macs": {"mean": cost.macs, "p50": cost.macs, "p99": cost.macs},
        "macs_nonzero": cost.macs_nonzero,
        "convolution_nonzeros": cost.convolution_nonzeros,
    }
    route = victim_at(model, point).route
    if route is None or not isinstance(model, Tunable):
        return fields
    taken = torch.cat([route(to_pixels(data.images[part])) for part in chunks(data)]).cpu()
    nobody = torch.full_like(taken, -1)
    return fields | by_exit(exit_costs(model, point), [torch.stack([taken, nobody])], 0)


@torch.no_grad()
def _right(builder: RowBuilder, point: Point | None, images: Tensor, seeds: tuple[object, ...]) -> Tensor:
    """(N,) bool: which uint8 images are classified correctly at a point; noise is drawn from `seeds`."""
    data, found = builder.dataset, []
    victim = victim_at(builder.target.model, point)
    for number, part in enumerate(chunks(data)):
        judge = victim.judge(data.labels[part], stream(*seeds, "corruption", number))
        found.append(~judge.judge(to_pixels(images[part]))[1])
    return torch.cat(found).cpu()


def _stopped(builder: RowBuilder, done: int, total: int) -> str:
    out, fresh = builder.options.out, builder.options.fresh
    if out is None:
        return "stopped; nothing is kept, because no file of rows was given"
    again = "the same command" + (" without --fresh" if fresh else "")
    return f"stopped after {done} of {total} corruptions; their rows are in {out}; {again} continues"
