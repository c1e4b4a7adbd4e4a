"""Choice of an operating point from rows, with simultaneous confidence bounds over all points considered.

Only rows of the calibrate-choose split are used: training, thresholds and the dial's map have not seen
those images, and the test split is reserved for the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rheostat.deploy.precisions import FULL, Key
from rheostat.points.point import Point
from rheostat.results.intervals import lower_bound
from rheostat.results.row import Row
from rheostat.runtime.choices import nearest

SPLIT = "calibrate-choose"
GOALS = ("clean", "robust", "balanced", "macs", "latency")
"""Goals of a choice: accuracies are maximised (`balanced` as in `worths`), costs minimised."""


@dataclass(frozen=True)
class Need:
    """Limits that a point must meet: accuracies in [0, 1], MACs per image, milliseconds at batch 1; None: no limit.

    Raises ValueError for an accuracy outside [0, 1], or a cost that is not positive.
    """

    min_robust: float | None = None
    min_clean: float | None = None
    max_macs: float | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_robust", "min_clean"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, given {value:g}")
        for name in ("max_macs", "max_latency"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, given {value:g}")


@dataclass(frozen=True)
class Candidate:
    """A point with its measured numbers and one-sided lower bounds on both accuracies.

    `precision` is that in which it was measured and is to be served. In a lower one, `flags` are also those of the
    point's row in fp32, which bounds RA. `exit_shares` are the shares of clean images by exit, of which `macs` is the
    mean, if exits are live. `artifact` is the hash of the model that was measured.
    """

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
    precision: str = FULL
    exit_shares: tuple[float, ...] | None = None
    artifact: str | None = None

    def lacks(self, need: Need) -> dict[str, float]:
        """By how much each limit is missed, as a fraction of the limit; empty if all limits are met."""
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
        """The value that the goal maximises; costs are negated. "balanced" compares points; see `worths`."""
        if goal == "balanced":
            raise ValueError("'balanced' compares points with one another; use `worths`")
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
    """The result of `choose`: the best point that meets every limit, the second best, and the Pareto front.

    If no point meets every limit, `chosen` is None and `closest` is the point that misses them least.
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
    rows: list[Row],
    *,
    confidence: float = 0.95,
    latencies: Mapping[Key, float] | None = None,
    precisions: Sequence[str] = (FULL,),
) -> list[Candidate]:
    """Every measured point in each of `precisions`, with simultaneous bounds: Bonferroni over all and both accuracies.

    Rows of other splits are ignored. If a point has several rows, the one with the most attacks counts, and among those
    with equally many the one with the lowest RA. In a lower precision a point needs a row of its own and one in fp32,
    and never counts as more robust than in fp32: the attacks on a file are weaker, because it has no gradients. Raises
    ValueError for a confidence that is not between 0 and 1, if there are no rows of the split, or if they belong to
    several models, radii or data sets.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, given {confidence:g}")

    def strength(row: Row) -> tuple[int, float]:
        return len(row.attack.names), -row.robust_accuracy

    found: dict[Key, Row] = {}
    against: set[str] = set()
    for row in rows:
        if row.attack.name != "worst" or row.knowledge != "known" or row.rule is not None:
            continue
        if row.split != SPLIT:
            continue
        if row.precision not in precisions:
            continue
        against.add(f"{row.attack.norm} {row.attack.eps:g} on {row.dataset}")
        key = Point(**row.at), row.precision
        if key not in found or strength(row) > strength(found[key]):
            found[key] = row
    found = {key: row for key, row in found.items() if (key[0], FULL) in found}
    if not found:
        splits = sorted({r.split for r in rows})
        raise ValueError(
            f"no rows of split {SPLIT!r} (found: {', '.join(splits) or 'none'}); measure with "
            f"`rheostat evaluate RUN --split {SPLIT}`: nothing may be chosen on test"
        )
    if len({r.artifact for r in found.values()}) > 1:
        raise ValueError("the rows belong to several models; pass the rows of one model")
    if len(against) > 1:
        raise ValueError(
            f"the rows are under {' and '.join(sorted(against))}, which cannot be compared: measure under one of them, "
            "into a separate file (--out), and choose from that file (--rows)"
        )
    each = 1 - (1 - confidence) / (2 * len(found))

    def bound(accuracy: float, n: int) -> float:
        return lower_bound(round(accuracy * n), n, confidence=each)

    return [
        Candidate(
            point,
            r.clean_accuracy,
            min(r.robust_accuracy, full.robust_accuracy),
            bound(r.clean_accuracy, r.n),
            min(bound(o.robust_accuracy, o.n) for o in (r, full)),
            full.macs.mean,  # a file with live exits does not say which of them images take
            (latencies or {}).get((point, precision)),
            r.attack.names,
            r.tier,
            tuple(dict.fromkeys((*r.flags, *full.flags))),
            r.n,
            precision,
            tuple(full.exit_shares.clean) if full.exit_shares is not None and full.exit_shares.clean else None,
            r.artifact,
        )
        for (point, precision), r in found.items()
        for full in (found[point, FULL],)
    ]


def worths(found: Sequence[Candidate], goal: str) -> list[float]:
    """The value of each point that the goal maximises.

    For "balanced" it is the smaller of two shares: of the range of SA over these points, and of the range of RA, that
    the point reaches. (The mean of SA and RA is highest at one end of most dials.)
    """
    if goal != "balanced":
        return [one.worth(goal) for one in found]
    pairs = zip(_shares([c.clean_bound for c in found]), _shares([c.robust_bound for c in found]), strict=True)
    return [min(pair) for pair in pairs]


def _shares(values: list[float]) -> list[float]:
    """Where each value lies between the lowest (0) and the highest (1); 1 if all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]


def choose(
    rows: list[Row],
    need: Need,
    *,
    maximise: str = "clean",
    confidence: float = 0.95,
    latencies: dict[Point, float] | None = None,
) -> Choice:
    """The point with the best value of the goal among those whose bounds meet every limit.

    `maximise` is "clean" or "robust" (their lower bounds), "balanced" (see `worths`), or "macs" or "latency" (the
    lowest). `latencies` are milliseconds per image, by point. Only rows in fp32 count. Raises ValueError as
    `candidates` does, for an unknown goal, or if a limit or goal needs latencies that are missing.
    """
    if maximise not in GOALS:
        raise ValueError(f"no goal {maximise!r}; {nearest(maximise, GOALS)}")
    times = {(point, FULL): ms for point, ms in (latencies or {}).items()}
    found = candidates(rows, confidence=confidence, latencies=times)
    # Ties go to the more robust, then to the cheaper point, so that the order of rows does not matter.
    good = [c for c in found if not c.lacks(need)]
    valued = zip(worths(good or found, maximise), good or found, strict=True)
    ranked = [c for _, c in sorted(valued, key=lambda pair: (-pair[0], -pair[1].robust_bound, pair[1].macs))]
    closest = None if good else min(ranked, key=lambda c: sum(c.lacks(need).values()))
    return Choice(
        ranked[0] if good else None,
        ranked[1] if len(good) > 1 else None,
        closest,
        front(found),
        confidence,
        len(found),
        maximise,
        need,
    )


def front(found: list[Candidate]) -> tuple[Candidate, ...]:
    """The points that no other point dominates in clean accuracy, robust accuracy and MACs, least robust first."""

    def beats(a: Candidate, b: Candidate) -> bool:
        pairs = ((a.clean, b.clean), (a.robust, b.robust), (-a.macs, -b.macs))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    kept = [c for c in found if not any(beats(o, c) for o in found)]
    return tuple(sorted(kept, key=lambda c: c.robust))
