"""What a server could have done that had known every arrival: the best schedule of one worker, found offline.

Dynamic programming over requests in order of arrival. All deadlines are equally long, so an exchange argument shows
that some best schedule answers in order of arrival, in batches of requests that follow each other, and refuses some.
A state is the time at which the worker is free and the correct answers so far; of the states that no other beats in
both, at most `KEPT` are carried on, so what is found is a lower bound on the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rheostat.serve.simulation import Outcome

KEPT = 24


@dataclass(frozen=True)
class _State:
    free: float
    value: float
    before: _State | None = None
    point: str | None = None
    """The point of the batch that ends here; None: a request was refused."""
    size: int = 1
    begins: float = 0.0


def oracle(
    arrivals: Sequence[float],
    value: Mapping[str, float],
    seconds: Callable[[str, int], float],
    deadline: float,
    *,
    most: int,
) -> list[Outcome]:
    """The schedule of most value: `value[point]` for each request answered at it within the deadline.

    `seconds(point, requests)`; `most`: requests in a batch.
    """
    sizes = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if n <= most]
    table = {(p, n): took for p in value for n in sizes if (took := seconds(p, n)) <= deadline}
    states: list[list[_State]] = [[] for _ in range(len(arrivals) + 1)]
    states[0] = [_State(-math.inf, 0.0)]
    for i, arrived in enumerate(arrivals):
        for state in _pareto(states[i]):
            states[i + 1].append(_State(state.free, state.value, state))
            for (point, size), took in table.items():
                if i + size > len(arrivals):
                    continue
                begins = max(state.free, arrivals[i + size - 1])
                if begins + took <= arrived + deadline:
                    gained = state.value + size * value[point]
                    states[i + size].append(_State(begins + took, gained, state, point, size, begins))
        states[i] = []
    best = max(states[-1], key=lambda s: s.value)
    return _outcomes(arrivals, best)


def _pareto(states: list[_State]) -> list[_State]:
    """Those that no other beats, the earliest first; spread evenly where there are too many."""
    kept: list[_State] = []
    for state in sorted(states, key=lambda s: (s.free, -s.value)):
        if not kept or state.value > kept[-1].value:
            kept.append(state)
    if len(kept) <= KEPT:
        return kept
    return [kept[round(i * (len(kept) - 1) / (KEPT - 1))] for i in range(KEPT)]


def _outcomes(arrivals: Sequence[float], last: _State) -> list[Outcome]:
    found: list[Outcome] = []
    end, state = len(arrivals), last
    while state.before is not None:
        batch = arrivals[end - state.size : end]
        if state.point is None:
            found += [Outcome(t, t, None) for t in reversed(batch)]
        else:
            found += [Outcome(t, state.free, state.point, state.begins - t) for t in reversed(batch)]
        end, state = end - state.size, state.before
    return found[::-1]
