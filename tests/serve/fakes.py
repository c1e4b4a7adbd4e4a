"""A service without a model, in this process: its points answer at once."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rheostat.serve.costs import Times
from rheostat.serve.options import Service

IMAGE = (1, 8, 8)
MEASURED = {"safe": {"robust_bound": 0.6}, "balanced": {"robust_bound": 0.4}, "fast": {"robust_bound": 0.1}}
COSTS = dict.fromkeys(MEASURED, Times(((1, 0.001),)))
TOKEN = "a-token-for-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NPY = {"Content-Type": "application/x-npy"}


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """Arrivals of a Poisson process, in seconds."""
    draw, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += draw.expovariate(rate)
        found.append(now)
    return found


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def fake(run: Callable[[np.ndarray], np.ndarray] | None = None) -> Service:
    """Three points of ten classes; `run` answers for all of them."""
    answer = run or (lambda images: np.full((len(images), 10), 0.1, np.float32))
    classes = tuple(str(i) for i in range(10))
    return Service(dict.fromkeys(MEASURED, answer), {n: {} for n in MEASURED}, MEASURED, classes, IMAGE, "none", COSTS)


def running(app: FastAPI) -> TestClient:
    """A client of the application, which lives as long as the `with` block."""
    return TestClient(app, raise_server_exceptions=False)
