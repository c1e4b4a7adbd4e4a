"""How a replay is judged: by the answers that were correct and in time, clean and attacked images apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rheostat.serve.simulation import Outcome

Bits = Mapping[str, npt.NDArray[np.bool_]]
"""Point name → (N,): whether its answer to each test image is correct."""


@dataclass(frozen=True)
class Requests:
    """What is sent: (requests, images) indices of test images, and which requests are attacked."""

    images: npt.NDArray[np.int64]
    attacked: npt.NDArray[np.bool_]

    @classmethod
    def drawn(cls, count: int, images: int, available: int, share: float, *, seed: int = 0) -> Requests:
        """So many requests of so many images; `share` of the requests are attacked."""
        draw = np.random.default_rng(seed)
        return cls(draw.integers(0, available, (count, images)), draw.random(count) < share)


def correct(outcomes: Sequence[Outcome], requests: Requests, clean: Bits, attacked: Bits) -> npt.NDArray[np.float64]:
    """(requests,): the share of a request's images that its point answers correctly; 0 where it was refused."""
    found = np.zeros(len(outcomes))
    for i, outcome in enumerate(outcomes):
        if outcome.point is not None:
            bits = (attacked if requests.attacked[i] else clean)[outcome.point]
            found[i] = bits[requests.images[i]].mean()
    return found


def judged(
    outcomes: Sequence[Outcome], right: npt.NDArray[np.float64], attacked: npt.NDArray[np.bool_], deadline: float
) -> dict[str, Any]:
    """The numbers of one replay. `right`: the share of each request's images that was answered correctly."""
    timely = in_time(outcomes, deadline)
    return {
        "requests": len(outcomes),
        "effective_clean": _mean(right * timely, ~attacked),
        "effective_attacked": _mean(right * timely, attacked),
        **_times(outcomes, timely),
        "goodput": float((right * timely).sum()) / _lasted(outcomes),
        "time_at": time_at(outcomes),
    }


def expected(
    outcomes: Sequence[Outcome], clean: Mapping[str, float], robust: Mapping[str, float], share: float, deadline: float
) -> dict[str, Any]:
    """The same numbers in expectation over images: SA and RA of the points that answered, `share` of them attacked."""
    timely = in_time(outcomes, deadline)
    found = [
        np.array([0.0 if o.point is None else accuracy[o.point] for o in outcomes]) * timely
        for accuracy in (clean, robust)
    ]
    return {
        "requests": len(outcomes),
        "effective_clean": float(found[0].mean()),
        "effective_attacked": float(found[1].mean()),
        **_times(outcomes, timely),
        "goodput": float(((1 - share) * found[0] + share * found[1]).sum()) / _lasted(outcomes),
        "time_at": time_at(outcomes),
    }


def in_time(outcomes: Sequence[Outcome], deadline: float) -> npt.NDArray[np.bool_]:
    """(requests,): which were answered within the deadline; a rounding error late is in time."""
    return np.array([o.point is not None and o.took <= deadline * (1 + 1e-9) for o in outcomes])


def _lasted(outcomes: Sequence[Outcome]) -> float:
    return max(o.ended for o in outcomes) - outcomes[0].arrived


def _times(outcomes: Sequence[Outcome], timely: npt.NDArray[np.bool_]) -> dict[str, float]:
    answered = np.array([o.point is not None for o in outcomes])
    took = np.array([o.took for o in outcomes])
    times = took[answered] if answered.any() else np.array([float("nan")])
    return {
        "slo": float(timely.mean()),
        "refused": float((~answered).mean()),
        "late": float((answered & ~timely).mean()),
        "p50_ms": 1e3 * float(np.quantile(times, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
    }


def _mean(values: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> float | None:
    return float(values[chosen].mean()) if chosen.any() else None


def time_at(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The share of time at each point: from each answer back to the one before, at the point of the later."""
    answers = sorted((o.ended, o.point) for o in outcomes if o.point is not None)
    found: dict[str, float] = {}
    before = outcomes[0].arrived
    for ended, point in answers:
        assert point is not None
        found[point] = found.get(point, 0.0) + ended - before
        before = ended
    whole = sum(found.values())
    return {point: seconds / whole for point, seconds in found.items()} if whole else {}
