"""An operating point chosen from rows: bounds that hold for all points looked at, and what comes nearest.

Only rows of the calibrate-choose split are taken: nothing else saw those images, neither training nor
thresholds nor the dial's map, and the test split stays for the report.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rheostat.points.point import Point
from rheostat.results.intervals import lower_bound
from rheostat.results.row import Row
from rheostat.runtime.choices import nearest

SPLIT = "calibrate-choose"
GOALS = ("clean", "robust", "macs", "latency")
"""What may be made best: accuracies are maximised, costs minimised."""
GAIN = 0.1
"""The least share of the time that a step of a ladder saves."""


@dataclass(frozen=True)
class Need:
    """What a point must keep: shares in [0, 1], MACs an image, milliseconds at batch 1; None: no limit."""

    min_robust: float | None = None
    min_clean: float | None = None
    max_macs: float | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_robust", "min_clean"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, given {value:g}")
        for name in ("max_macs", "max_latency"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, given {value:g}")


@dataclass(frozen=True)
class Candidate:
    """A point with its measured numbers and one-sided lower bounds on both accuracies."""

    point: Point
    clean: float
    robust: float
    clean_bound: float
    robust_bound: float
    macs: float
    latency: float | None
    attacks: tuple[str, ...]
    tier: str
    flags: tuple[str, ...]
    n: int

    def lacks(self, need: Need) -> dict[str, float]:
        """By how much each need is missed, as a share of it; nothing: all are kept."""
        found: dict[str, float] = {}
        for name, limit, bound in (
            ("min_robust", need.min_robust, self.robust_bound),
            ("min_clean", need.min_clean, self.clean_bound),
        ):
            if limit is not None and bound < limit:
                found[name] = (limit - bound) / limit
        for name, limit, cost in (
            ("max_macs", need.max_macs, self.macs),
            ("max_latency", need.max_latency, self.latency),
        ):
            if limit is not None and cost is None:
                raise ValueError("a limit on latency needs measured latencies")
            if limit is not None and cost is not None and cost > limit:
                found[name] = (cost - limit) / limit
        return found

    def worth(self, goal: str) -> float:
        """What is made best; larger is better."""
        if goal == "latency" and self.latency is None:
            raise ValueError("latency as the goal needs measured latencies")
        values = {
            "clean": self.clean_bound,
            "robust": self.robust_bound,
            "macs": -self.macs,
            "latency": -(self.latency or 0.0),
        }
        return values[goal]


@dataclass(frozen=True)
class Choice:
    """The answer: the best point that keeps every need, the next, and the Pareto front.

    `chosen` is None where none does; `closest` is then the one that misses least.
    """

    chosen: Candidate | None
    runner_up: Candidate | None
    closest: Candidate | None
    front: tuple[Candidate, ...]
    confidence: float
    looked_at: int
    goal: str
    need: Need = field(default_factory=Need)


def candidates(
    rows: list[Row], *, confidence: float = 0.95, latencies: dict[Point, float] | None = None
) -> list[Candidate]:
    """Every measured point with bounds that hold together: Bonferroni over points and both accuracies.

    Where a point was measured in several tiers the row of most attacks counts. ValueError on rows of
    any other split, of several models, of several radii or data sets, and where there are none.
    """
    found: dict[Point, Row] = {}
    against: set[str] = set()
    for row in rows:
        if row.attack.name != "worst" or row.knowledge != "known" or row.rule is not None:
            continue
        if row.split != SPLIT:
            continue
        against.add(f"{row.attack.norm} {row.attack.eps:g} on {row.dataset}")
        point = Point(**row.at)
        if point not in found or len(row.attack.names) > len(found[point].attack.names):
            found[point] = row
    if not found:
        splits = sorted({r.split for r in rows})
        raise ValueError(
            f"no rows of split {SPLIT!r} (there are: {', '.join(splits) or 'none'}); measure with "
            f"`rheostat evaluate RUN --split {SPLIT}`: nothing is chosen on test"
        )
    if len({r.artifact for r in found.values()}) > 1:
        raise ValueError("the rows are of several models; choose from the rows of one")
    if len(against) > 1:
        raise ValueError(
            f"the rows are under {' and '.join(sorted(against))}, which do not compare: measure under one, into a file "
            "of its own (--out), and choose from that (--rows)"
        )
    each = 1 - (1 - confidence) / (2 * len(found))
    return [
        Candidate(
            point,
            r.clean_accuracy,
            r.robust_accuracy,
            lower_bound(round(r.clean_accuracy * r.n), r.n, confidence=each),
            lower_bound(round(r.robust_accuracy * r.n), r.n, confidence=each),
            r.macs.mean,
            (latencies or {}).get(point),
            r.attack.names,
            r.tier,
            tuple(r.flags),
            r.n,
        )
        for point, r in found.items()
    ]


def choose(
    rows: list[Row],
    need: Need,
    *,
    maximise: str = "clean",
    confidence: float = 0.95,
    latencies: dict[Point, float] | None = None,
) -> Choice:
    """The point whose bound is best among those whose bounds keep every need.

    `maximise`: clean or robust accuracy, or the least macs or latency.
    """
    if maximise not in GOALS:
        raise ValueError(f"no goal {maximise!r}; {nearest(maximise, GOALS)}")
    found = candidates(rows, confidence=confidence, latencies=latencies)
    # Ties go to the more robust, then the cheaper: a stable order whatever the rows' order.
    ranked = sorted(found, key=lambda c: (-c.worth(maximise), -c.robust_bound, c.macs))
    good = [c for c in ranked if not c.lacks(need)]
    closest = None if good else min(ranked, key=lambda c: sum(c.lacks(need).values()))
    return Choice(
        good[0] if good else None,
        good[1] if len(good) > 1 else None,
        closest,
        front(found),
        confidence,
        len(found),
        maximise,
        need,
    )


@dataclass(frozen=True)
class LadderChoice:
    """The points of a ladder, the slowest first, which is the preferred one, and what they were chosen from."""

    points: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    confidence: float
    looked_at: int


def choose_ladder(
    rows: list[Row],
    need: Need,
    *,
    latencies: dict[Point, float],
    maximise: str = "clean",
    steps: int = 4,
    confidence: float = 0.95,
) -> LadderChoice:
    """Points for a server that trades accuracy for capacity: on the Pareto front of latency, SA and RA.

    All keep every need by their bounds. The first is what `choose` prefers; of the faster ones each is
    the best by the same goal among those that save at least `GAIN` of the time of the one before, and the last
    is the fastest. `latencies`: milliseconds an image, by point. ValueError where no point keeps the needs, or
    where none is faster than the first.
    """
    if maximise not in ("clean", "robust"):
        raise ValueError(f"no goal {maximise!r} of a ladder; {nearest(maximise, ('clean', 'robust'))}")
    if steps < 2:
        raise ValueError(f"a ladder has at least 2 points, given {steps}")
    found = candidates(rows, confidence=confidence, latencies=latencies)
    good = [c for c in found if not c.lacks(need)]
    if not good:
        raise ValueError("none of the measured points keeps every limit; see rheostat choose without --ladder")
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
    # The ends stay; between them those that are evenly spread.
    kept = [ladder[round(i * (len(ladder) - 1) / (steps - 1))] for i in range(steps)] if len(ladder) > steps else ladder
    return LadderChoice(tuple(kept), pareto, confidence, len(found))


def _time(candidate: Candidate) -> float:
    if candidate.latency is None:
        raise ValueError("a ladder needs measured latencies")
    return candidate.latency


def time_front(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other point beats in clean accuracy, robust accuracy and latency at once, the fastest first."""

    def beats(a: Candidate, b: Candidate) -> bool:
        pairs = ((a.clean, b.clean), (a.robust, b.robust), (-_time(a), -_time(b)))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    return tuple(sorted((c for c in found if not any(beats(o, c) for o in found)), key=_time))


def front(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other point beats in clean accuracy, robust accuracy and MACs at once."""

    def beats(a: Candidate, b: Candidate) -> bool:
        pairs = ((a.clean, b.clean), (a.robust, b.robust), (-a.macs, -b.macs))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    kept = [c for c in found if not any(beats(o, c) for o in found)]
    return tuple(sorted(kept, key=lambda c: c.robust))
