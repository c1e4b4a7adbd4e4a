"""Rows of points in a lower precision: SA and RA of the very kind of file that is served (`rheostat evaluate`)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from rheostat.data import Dataset, to_pixels
from rheostat.deploy.precisions import CALIBRATED_ON, LOWER, SERVED, check_runs_here, open_in, write_in
from rheostat.deploy.quantising import ATTACKS, IN_PYTHON, judged
from rheostat.evaluation.arguments import as_attacks, as_points
from rheostat.evaluation.evaluator import Report
from rheostat.evaluation.lookup import Request, find_data, find_target, settled
from rheostat.evaluation.options import DEFAULT_SPLIT, EvaluationOptions
from rheostat.evaluation.rows import RowBuilder
from rheostat.evaluation.stale import check_fit, stored_rows
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.row import AttackEntry, Measurement, Row
from rheostat.results.rows import add_rows
from rheostat.runtime.choices import check_choice
from rheostat.runtime.distributed import world_size


def measure_in(
    precision: str, request: Request, options: EvaluationOptions, *, report: Report | None = None
) -> list[Row]:
    """One row for each point of a model, judged as a file in a lower precision; finished points are not repeated.

    The attacks are fixed, because a file has no gradients: PGD-20 on the fp32 model, transferred, and Square on the
    file; an image counts as robust if it withstands both. Ranges of int8 come from calibrate-fit. Without `options.out`
    the rows go to rows.jsonl in the run's folder. Raises ValueError for options that choose attacks, for several ranks
    or another device than the CPU, for a point that has no file in this precision, and if this machine cannot run it.
    """
    check_choice("evaluate", "precision", precision, ("fp32", *LOWER))
    _check(precision, request, options)
    target = find_target(request.which, name=options.name, between=None, net=request.net)
    model = target.model
    if not isinstance(model, Tunable):
        raise ValueError(f"--precision {precision} exports a model of this package, given the factory {request.which}")
    model.to("cpu")  # the factory of a network may put it on a GPU

    def images(split: str, examples: int | None, otherwise: str = "") -> Dataset:
        return find_data(
            target,
            request.data,
            split,
            data_dir=request.data_dir,
            examples=examples,
            verify=request.verify,
            otherwise=otherwise,
        )

    dataset = images(options.split or DEFAULT_SPLIT, request.examples)
    check_fit(target, dataset)
    # Only int8 takes ranges from images, so only int8 needs a model that records its splits.
    ranges = torch.empty(0)
    if SERVED[precision].quantised:
        ranges = to_pixels(images("calibrate-fit", CALIBRATED_ON, IN_PYTHON).images)
    options = settled(request, options, target)
    assert options.out is not None
    builder = RowBuilder(target, dataset, options, precision)
    attack = as_attacks(target, "pgd20", options)[0]
    worst = AttackEntry(name="worst", eps=attack.eps, norm=attack.norm, of=list(ATTACKS))
    points = [point for point in as_points(target, request.at) if point is not None]
    plan = [builder.measurement(point.numbers(), worst) for point in points]
    if options.fresh:
        check_runs_here(precision)  # nothing is dropped that cannot be measured again
    done, rows = stored_rows(builder, [of.identity for of in plan]), list[Row]()
    for number, (point, of) in enumerate(zip(points, plan, strict=True), 1):
        row = done.get(of.identity) or _row(builder, of, point, ranges)
        rows.append(row)
        if report is not None:
            report({"event": "point", "number": number, "of": len(points), "row": row})
    return rows


def _row(builder: RowBuilder, of: Measurement, point: Point, images: Tensor) -> Row:
    """Measure a point as a file, and store its row and bits; `images` give the ranges of int8."""
    model, about, dataset = builder.target.model, builder.target.about, builder.dataset
    assert isinstance(model, Tunable)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = write_in(of.precision, model, about, Path(folder) / "x.onnx", at=point, images=images)
        session = open_in(of.precision, file, threads=torch.get_num_threads())
        found = judged(model, point, session, dataset, eps=of.attack.eps, norm=of.attack.norm)
    cost = observe(model, dataset.image, point)
    row = builder.row(
        of,
        found.clean,
        found.robust,
        params=cost.params,
        nonzeros=cost.nonzeros,
        macs={"mean": cost.macs, "p50": cost.macs, "p99": cost.macs},
        seconds=round(time.perf_counter() - started, 3),
        # Those of training hold for a file too. The checks of an evaluation need gradients: rows in fp32 have theirs.
        flags=builder.target.flags,
    )
    assert builder.options.out is not None
    add_rows(builder.options.out, [row], {row.identity: (found.clean, found.robust)})
    return row


def _check(precision: str, request: Request, options: EvaluationOptions) -> None:
    """Raise ValueError if the request chooses attacks, a rule or a device, which do not apply to a file."""
    if world_size() > 1:
        raise ValueError(f"--precision {precision} runs in one process, given {world_size()} ranks; omit torchrun")
    given = {
        "--tier": request.tier,
        "--attack": request.attacks,
        "--step-size": request.step_size,
        "--between": request.between,
        "--corruptions": request.corruptions,
        "--transfer": options.transfer,
        "--warm": options.warm,
        "--probe": options.probing,
        "--seed": options.seed,
        "--device": request.device not in ("auto", "cpu"),
        "--attack-precision": options.attack_precision != "fp32",
    }
    if wrong := [name for name, value in given.items() if value]:
        raise ValueError(
            f"--precision {precision} judges a file on the CPU, under PGD-20 transferred from fp32 and Square on the "
            f"file; omit {', '.join(wrong)}"
        )
