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


def arrivals(name: str, rate: float, count: int, *, window: int = 0) -> list[float]:
    """`count` arrivals in seconds, stretched so that their mean rate is `rate` a second.

    `window`: which `count` arrivals of a trace, the first at 0; of Poisson arrivals the seed.
    """
    if name == "poisson":
        gaps = np.random.default_rng(window).exponential(1.0, count)
    else:
        times = np.loadtxt(folder() / TRACES[name])[window * count :][: count + 1]
        if len(times) < count + 1:
            raise SystemExit(f"the trace {name} has no window {window} of {count} arrivals")
        gaps = np.diff(times)
    found = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    return [float(t) for t in found * len(found) / (rate * float(np.sum(gaps)))]
