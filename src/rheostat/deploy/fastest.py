"""Selection of the runtime that runs an exported file fastest on this machine."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from rheostat.deploy.leaving import WHOLE, Weights, mean_latency
from rheostat.deploy.onnx_session import Session, SessionModule
from rheostat.deploy.runtimes import Precision

log = logging.getLogger(__name__)
BATCHES = (1, 8)
"""Batch sizes that are timed: a single request, and a small queue."""


def installed() -> tuple[str, ...]:
    """The installed runtimes of exported files, ONNX Runtime first."""
    names = {"onnx": "onnxruntime", "openvino": "openvino"}
    return tuple(n for n, package in names.items() if importlib.util.find_spec(package) is not None)


def fastest_runtime(
    file: str | Path,
    image: tuple[int, int, int],
    *,
    precision: Precision = "fp32",
    threads: int | None = None,
    seconds: float = 0.1,
    weights: Weights = WHOLE,
) -> str:
    """The runtime with the lowest product of median latencies at batches 1 and 8; the choice is logged.

    Each runtime is timed for about `seconds` per batch size, on images (C, H, W). If exits are live, `weights` are the
    shares of images by exit. If only one runtime accepts the file in this precision, it is not timed. Raises ValueError
    if none is installed or none accepts the file.
    """
    if not installed():
        raise ValueError("exported files need a runtime: pip install 'rheostat[deploy]' or 'rheostat[openvino]'")
    sessions = sessions_of(file, precision=precision, threads=threads)
    candidates = tuple(sessions)
    if len(candidates) == 1:
        return candidates[0]
    total = dict.fromkeys(candidates, 1.0)
    for batch in BATCHES:
        forms = {n: SessionModule(s) for n, s in sessions.items()}
        times = mean_latency(forms, dict.fromkeys(forms, weights), image, batch=batch, seconds=seconds)
        total = {n: t * times[n].median for n, t in total.items()}
    best = min(candidates, key=lambda n: total[n])
    shown = ", ".join(f"{n} ({sessions[n].precision}) {t ** (1 / len(BATCHES)):.2f} ms" for n, t in total.items())
    log.info("backend %s, by the geometric mean of latencies at batches 1 and 8: %s", best, shown)
    return best


def sessions_of(file: str | Path, *, precision: Precision, threads: int | None) -> dict[str, Session]:
    """A session under each installed runtime that accepts the file; each runtime that does not is logged as a warning.

    `precision` applies to OpenVINO; ONNX Runtime runs only fp32 and is omitted for bf16. If no runtime accepts
    the file, raises the ValueError of the last one.
    """
    sessions: dict[str, Session] = {}
    problem: ValueError | None = None
    for name in installed():
        try:
            sessions[name] = Session(file, runtime=name, precision=precision, threads=threads, spin=False)
        except ValueError as error:
            problem = error
            log.warning("runtime omitted: %s", error)
    if not sessions and problem is not None:
        raise problem
    return sessions
