"""The cost of a point on this machine, in every form in which it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from rheostat.deploy.exporting import NoFile, export
from rheostat.deploy.fastest import sessions_of
from rheostat.deploy.leaving import WHOLE, Shares, mean_latency, mean_macs, weights_of
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.deploy.precisions import SERVED
from rheostat.deploy.quantising import quantise
from rheostat.models.artifact import About
from rheostat.models.costs import observe
from rheostat.models.folding import foldable
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.runtime.seeding import stream

BATCHES = (1, 32)
INT8 = {how.runtime: how.forms[0] for how in SERVED.values() if how.quantised}
"""Runtime → the form of a quantised file under it."""


@dataclass(frozen=True)
class PointBenchmark:
    """One form of one point: counts, and milliseconds per pass at batch sizes 1 and 32.

    With live exits, MACs and times are means over the exits by `exit_shares`, the share of images that take each; if
    the shares are not known, they are those of images that no exit lets leave early.
    """

    point: Point
    form: str
    params: int
    nonzeros: int
    bytes: int
    macs: int
    p50: dict[int, float]
    p99: dict[int, float]
    images_per_second: float
    live: bool = False
    exit_shares: Shares | None = None


def bench(
    model: Tunable,
    about: About,
    points: list[Point],
    *,
    seconds: float = 0.5,
    compiled: bool = False,
    int8: bool = False,
    shares: Mapping[Point, Shares] = MappingProxyType({}),
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> list[PointBenchmark]:
    """Costs of every point: eager, folded and under each runtime; the forms take turns.

    `compiled` adds torch.compile, and `int8` a quantised file under each runtime (its ranges come from noise, which
    changes no time). `shares` are the shares of images by exit, for points with live exits. `report` is called with
    events of progress, and of a point whose network has no ONNX file.
    """
    found: list[PointBenchmark] = []
    noise = torch.rand(64, *model.net.image, generator=stream("times"))
    report({"event": "plan", "points": len(points), "batch sizes": len(BATCHES)})
    report({"event": "chunk", "done": 0, "total": len(points)})
    for number, point in enumerate(points, 1):
        forms: dict[str, nn.Module] = {"eager": model.at(point)}
        folded = foldable(model, point)
        if folded is not None:
            forms["folded"] = folded
            if compiled and not model.method.live(point):
                forms["compiled"] = torch.compile(folded)  # type: ignore[assignment]
        with tempfile.TemporaryDirectory() as folder:
            if folded is not None:
                file = Path(folder) / "x.onnx"
                try:
                    export(model, about, file, at=point)
                except NoFile as problem:
                    report({"event": "no-file", "why": str(problem)})
                else:
                    forms |= _sessions(file)
                if int8 and file.is_file() and not model.method.live(point):
                    made = quantise(file, file.with_name("int8.onnx"), noise)
                    small = sessions_of(made, precision="fp32", threads=torch.get_num_threads())
                    forms |= {INT8[runtime]: SessionModule(session) for runtime, session in small.items()}
            weights = weights_of(model, point, shares)
            every, image = dict.fromkeys(forms, weights), model.net.image
            times = {batch: mean_latency(forms, every, image, batch=batch, seconds=seconds) for batch in BATCHES}
        cost = observe(model, model.net.image, point)
        found += [
            PointBenchmark(
                point,
                name,
                cost.params,
                cost.nonzeros,
                cost.bytes,
                round(mean_macs(model, point, weights)),
                {b: t[name].median for b, t in times.items()},
                {b: t[name].p99 for b, t in times.items()},
                1000 * 32 / times[32][name].median,
                weights != WHOLE,
                shares.get(model.complete(point)),
            )
            for name in forms
        ]
        report({"event": "chunk", "done": number, "total": len(points)})
    return found


def as_rows(found: list[PointBenchmark], artifact: str) -> list[dict[str, Any]]:
    """The times as rows for the model with this hash; `bench_times` reads them from a file.

    Rows of points with live exits name `exit_shares`: null if it was not known which exits images take.
    """
    machine = hardware(torch.device("cpu"))
    return [
        {
            "artifact": artifact,
            "at": c.point.numbers(),
            "form": c.form,
            "macs": c.macs,
            "p50_ms": {str(b): v for b, v in c.p50.items()},
            "p99_ms": {str(b): v for b, v in c.p99.items()},
            **({"exit_shares": c.exit_shares} if c.live else {}),
            "hardware": machine,
        }
        for c in found
    ]


def _sessions(file: Path) -> dict[str, nn.Module]:
    """The file under every runtime and precision that this machine supports and that accepts it."""
    threads = torch.get_num_threads()
    forms: dict[str, nn.Module] = {}
    for runtime, session in sessions_of(file, precision="auto", threads=threads).items():
        if runtime == "onnx":
            forms["ONNX Runtime"] = SessionModule(session)
            continue
        exact = session if session.precision == "fp32" else Session(file, runtime=runtime, threads=threads)
        forms["OpenVINO fp32"] = SessionModule(exact)
        if exact is not session:
            forms[f"OpenVINO {session.precision}"] = SessionModule(session)
    return forms
