"""Turn a model file into a service: one forward pass per named point, by OpenVINO, ONNX Runtime or torch."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rheostat.deploy.exporting import NoFile, export
from rheostat.deploy.fastest import fastest_runtime
from rheostat.deploy.leaving import WHOLE, Weights, planned, stored_shares, ways, weights_of, without_shares
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.deploy.precisions import FULL, LOWER, SERVED, lacking, open_in, precision_of, stored_int8
from rheostat.deploy.runtimes import Array, Precision
from rheostat.models import artifact
from rheostat.models.folding import foldable
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.choices import nearest
from rheostat.serve.costs import Times, from_rows, measure
from rheostat.serve.engine import Run
from rheostat.serve.options import Service

BACKENDS = ("auto", "onnx", "openvino", "torch")
FORMS = {("onnx", "fp32"): ("ONNX Runtime",), **{("openvino", p): (f"OpenVINO {p}",) for p in ("fp32", "bf16")}}
"""(runtime of files, precision) → the forms of `rheostat bench` whose times apply to it."""


def service(
    which: str,
    *,
    backend: str = "onnx",
    precision: Precision | None = None,
    threads: int | None = None,
    every: bool = False,
    most: int = 64,
    costs: Path | None = None,
    net: str | None = None,
    needed: Collection[str] = (),
) -> Service:
    """Build the service of a model file, a run's folder or a packaged model's name.

    The service offers the named points stored in the file (`rheostat choose … --name safe`). `every` adds the ends
    and the middle of the robustness dial, so that you can try a model without named points; those points have no
    measured numbers, so no robustness floor admits them. `net` names the factory of an adopted model's network.

    The time of a batch of up to `most` images at each point is measured here, which takes a moment, or read from
    `costs`, a file written by `rheostat bench --out`. That of a point with live exits is the mean over its exits, by
    the shares of images that are stored with it; without them it is that of images that no exit lets leave early.
    Each point runs in the precision that it was chosen in (`rheostat choose --ladder`), because its numbers were
    measured in that one. `backend` is the runtime of points in fp32: "auto" takes the fastest installed one, measured
    at the first of them; int8 always runs under ONNX Runtime, bf16 and int8-openvino under OpenVINO. `precision`
    replaces that of every point: fp32, bf16 (OpenVINO only), or auto, which is bf16 where OpenVINO runs and the CPU has
    it, and fp32 otherwise. bf16 is faster but may not be measured.
    Every point must be servable here, or, if `needed` names points, these: others that are not are left out.
    Raises ValueError for bf16 under another runtime, if this machine cannot run a point's precision, if an int8 file
    is missing, or if a point has no file and the backend is not torch.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no backend {backend!r}; {nearest(backend, BACKENDS)}")
    if backend == "torch" and precision == "bf16":
        raise ValueError(
            "the backend torch serves in fp32, given the precision bf16; give the backend openvino or auto"
        )
    model, about = artifact.load_with(which, net=net)
    model.to("cpu")  # the factory of a network may put it on a GPU
    points = dict(model.points)
    if every and "robustness" in model.dials:
        points |= {f"t-{v:g}": model.complete(Point(robustness=v)) for v in (0.0, 0.5, 1.0)}
    if not points:
        raise ValueError(
            f"{which} has no named points to serve; store some: rheostat choose RUN --min-robust … --name "
            "safe (or try it with --unmeasured-points)"
        )
    made: dict[str, nn.Module] = {}
    forms: dict[str, tuple[str, ...]] = {}
    digest = artifact.digest(which)
    shares = stored_shares(model, about)
    weights = {name: weights_of(model, point, shares) for name, point in points.items()}
    left_out: dict[str, str] = {}
    times: dict[str, Times] = {}
    for name, point in list(points.items()):
        own = precision_of(about.measured.get(name, {})) if precision is None else FULL
        try:
            if own in LOWER:
                session = _lower(which, model, about, name, digest, threads)
                made[name], forms[name] = SessionModule(session), SERVED[own].forms
            elif backend == "torch":
                folded = foldable(model, point)
                made[name], forms[name] = folded or model.at(point), ("eager" if folded is None else "folded",)
            else:
                how = (backend, precision or "fp32", threads, weights[name])
                session, backend = _session(model, about, point, *how)
                made[name], forms[name] = SessionModule(session), FORMS[backend, session.precision]
            if costs is not None:
                at = {name: model.complete(point).numbers()}
                live = [name] if weights[name] != WHOLE else []
                times |= from_rows(costs, at, artifact=digest, forms=forms, live=live)
        except ValueError as problem:
            of_file = isinstance(problem, NoFile)  # the other messages name the point themselves
            text = f"{name!r}: {problem}" if of_file else str(problem)
            if name in (needed or points):
                raise ValueError(text + "; or leave it out of the ladder (--ladder)" * of_file) from None
            left_out[name] = text
            made.pop(name, None)
            del points[name], weights[name]
    runs = {name: _run(form, model.temperatures.get(name, 1.0)) for name, form in made.items()}
    if costs is None:
        unknown = without_shares(model, points.values(), shares)
        times = _measured(made, weights, model.net.image, most, late=[n for n, p in points.items() if p in unknown])
    return Service(
        runs,
        {n: p.numbers() for n, p in points.items()},
        {n: about.measured.get(n, {}) for n in points},
        about.classes or tuple(str(i) for i in range(model.net.classes)),
        model.net.image,
        digest,
        times,
        "stretch" if about.preprocessing is None else about.preprocessing.resize,
        left_out,
    )


def _softmax(logits: Array, temperature: float) -> Array:
    scaled = logits / temperature
    scaled -= scaled.max(1, keepdims=True)
    raised = np.exp(scaled)
    found: Array = raised / raised.sum(1, keepdims=True)
    return found


def _session(
    model: Tunable,
    about: artifact.About,
    point: Point,
    backend: str,
    precision: Precision,
    threads: int | None,
    weights: Weights,
) -> tuple[Session, str]:
    """A session for a point, and the name of its runtime: the fastest one if `backend` is "auto"."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "point.onnx"
        export(model, about, file, at=point)
        runtime = backend
        if backend == "auto":
            runtime = fastest_runtime(file, model.net.image, precision=precision, threads=threads, weights=weights)
        return Session(file, runtime=runtime, precision=precision, threads=threads, spin=False), runtime


def _lower(which: str, model: Tunable, about: artifact.About, name: str, digest: str, threads: int | None) -> Session:
    """A session of a named point in the lower precision that it was chosen in."""
    point, precision = model.points[name], precision_of(about.measured[name])
    if problem := lacking(precision):
        raise ValueError(
            f"{name!r} was chosen in {precision}, which cannot run here: {problem}; or serve every point in fp32 "
            "(--precision fp32)"
        )
    if SERVED[precision].quantised:
        file = stored_int8(artifact.locate(which), name, point, artifact=digest)
        return open_in(precision, file, threads=threads, spin=False)
    with tempfile.TemporaryDirectory() as folder:
        (file,) = export(model, about, Path(folder) / "point.onnx", at=point)[:1]
        return open_in(precision, file, threads=threads, spin=False)


def _measured(
    made: Mapping[str, nn.Module],
    weights: Mapping[str, Weights],
    image: tuple[int, int, int],
    most: int,
    *,
    late: Collection[str],
) -> dict[str, Times]:
    """The times of every point here, by the shares of images at its exits, which the points in `late` lack."""
    every = {key: _run(form, 1.0) for key, form in planned(made, weights, most).items()}
    batches = {name: found for (name, _), found in measure(every, image, most).items()}
    if all(own == WHOLE for own in weights.values()):
        return batches
    # A single image leaves at one exit: each is timed.
    single = measure({key: _run(form, 1.0) for key, form in planned(made, weights, 1).items()}, image, 1)
    return {
        name: Times(
            (
                (1, sum(share * single[name, way](1) for way, (share, _) in enumerate(ways(weights[name], 1)))),
                *found[1:],
            ),
            name not in late,
        )
        for name, found in ((name, times.measured) for name, times in batches.items())
    }


def _run(form: nn.Module, temperature: float) -> Run:
    """A pass of a form: images → probabilities."""
    if isinstance(form, SessionModule):
        return partial(_answer, form.session, temperature)

    def run(images: Array) -> Array:
        with torch.no_grad():
            logits: Array = form(torch.from_numpy(images)).numpy()
        return _softmax(logits, temperature)

    return run


def _answer(session: Session, temperature: float, images: Array) -> Array:
    return _softmax(session(images, validate=False), temperature)
