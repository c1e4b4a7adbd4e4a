"""Arrival times for a replay: two production traces, rescaled, and Poisson arrivals of the same mean rate."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

TRACES = {"code": "azure-llm-2023-code.txt", "conversation": "azure-llm-2023-conv.txt"}
"""Azure LLM inference traces 2023 (CC BY 4.0; Patel et al., Splitwise, ISCA 2024): seconds from the first request."""
NAMES = (*TRACES, "poisson")
LOADS = (0.5, 0.8, 1.0, 1.5)


def folder() -> Path:
    """Where the traces lie: `traces` in RHEOSTAT_DATA."""
    found = Path(os.environ.get("RHEOSTAT_DATA", "")) / "traces"
    if not found.is_dir():
        raise SystemExit("set RHEOSTAT_DATA to a folder that has traces/azure-llm-2023-{code,conv}.txt")
    return found


def arrivals(name: str, rate: float, count: int, *, seed: int = 0) -> list[float]:
    """The first `count` arrivals of a trace in seconds, stretched so that their mean rate is `rate` a second."""
    if name == "poisson":
        gaps = np.random.default_rng(seed).exponential(1.0, count)
    else:
        times = np.loadtxt(folder() / TRACES[name])
        gaps = np.diff(times[: count + 1])
    found = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    return [float(t) for t in found * len(found) / (rate * float(np.sum(gaps)))]
