"""Choice of a ladder: points for a server that trades accuracy for capacity, each faster than the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rheostat.deploy.choosing import Candidate, Need, candidates
from rheostat.deploy.precisions import FULL, Key
from rheostat.results.row import Row
from rheostat.runtime.choices import nearest
from rheostat.runtime.spacing import evenly

GAIN = 0.1
"""Each point of a ladder saves at least this fraction of the time of the point before it."""


@dataclass(frozen=True)
class LadderChoice:
    """The points of a ladder, the preferred one first and each faster than the one before, and their Pareto front."""

    points: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    confidence: float
    looked_at: int


def choose_ladder(
    rows: list[Row],
    need: Need,
    *,
    latencies: Mapping[Key, float],
    maximise: str = "clean",
    steps: int = 4,
    confidence: float = 0.95,
) -> LadderChoice:
    """Points for a server that trades accuracy for capacity, from the Pareto front of latency, SA and RA.

    `latencies` are milliseconds per image, by point and precision; precisions without any time do not take part. The
    bounds of every point meet every limit. The first point is the best by the goal. Each further point is the best
    among those that save at least `GAIN` of the time of the previous point, until no point saves as much. Raises
    ValueError if no point meets the limits, if a point has no time, or if none is faster than the first.
    """
    if maximise not in ("clean", "robust"):
        raise ValueError(f"no ladder goal {maximise!r}; {nearest(maximise, ('clean', 'robust'))}")
    if steps < 2:
        raise ValueError(f"a ladder needs at least 2 points, given {steps}")
    timed = {precision for _, precision in latencies} | {FULL}
    found = candidates(rows, confidence=confidence, latencies=latencies, precisions=sorted(timed))
    good = [c for c in found if not c.lacks(need)]
    if not good:
        raise ValueError("no measured point meets every limit; see rheostat choose without --ladder")
    pareto = time_front(good)
    ranked = sorted(pareto, key=lambda c: (-c.worth(maximise), -c.robust_bound, _time(c)))
    ladder = [ranked[0]]
    fastest = min(pareto, key=_time)
    while (faster := [c for c in ranked if _time(c) <= (1 - GAIN) * _time(ladder[-1])]) and ladder[-1] is not fastest:
        ladder.append(faster[0])
    if len(ladder) == 1:
        raise ValueError(
            f"{ladder[0].point.label()} is the best and no other point is at least {100 * GAIN:.0f} % faster, so a "
            "ladder would save no time; measure points of a dial that costs time (width, depth, exit)"
        )
    return LadderChoice(tuple(evenly(ladder, steps)), pareto, confidence, len(found))


def _time(candidate: Candidate) -> float:
    if candidate.latency is None:
        what = f"{candidate.point.label()} in {candidate.precision}"
        raise ValueError(f"a ladder needs measured latencies, and {what} has none; measure it with rheostat bench")
    return candidate.latency


def time_front(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The points that no other point dominates in clean accuracy, robust accuracy and latency, fastest first."""

    def beats(a: Candidate, b: Candidate) -> bool:
        pairs = ((a.clean, b.clean), (a.robust, b.robust), (-_time(a), -_time(b)))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    return tuple(sorted((c for c in found if not any(beats(o, c) for o in found)), key=_time))
