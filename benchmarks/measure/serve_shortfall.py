"""Why the default controller falls short of an oracle, cell by cell: one thing is changed at a time.

Each row has the effective accuracy (clean) of the schedule of an oracle; of the best rule of its kind in hindsight, a
point by thresholds on the images that wait, chosen for the very window; of the controller; and of the controller with
admission that refuses late instead of early, with batches that wait to fill, with every size of batch tried, and with
every point's answers worth the same.
"""

from __future__ import annotations

import itertools
from typing import Any

from serve_arrivals import LOADS, NAMES
from serve_simulated import CONFIRMED, TUNED, Bench, ways

from rheostat.serve.goodput import Goodput
from rheostat.serve.punctual import Punctual
from rheostat.serve.scheduling import Decision, Load, Waiting

WAITING = (0, 1, 2, 4, 8, 16, 10**6)
"""Requests that wait, above which the next point is taken."""
FILL = (0.05, 0.1, 0.2)
"""Shares of the deadline that a batch may wait to fill."""
CELLS = [(trace, load, TUNED) for trace in NAMES for load in LOADS]
"""On the window of the tuning, and for the trace of bursts on the last one too."""
CELLS += [("code", load, CONFIRMED[-1]) for load in LOADS]


class _Thresholds(Punctual):
    """The n-th point while at most `limits[n]` requests wait, and the last above."""

    limits: tuple[int, ...] = ()

    def decide(self, load: Load) -> Decision:
        place = sum(len(load.waiting) > limit for limit in self.limits)
        return Decision(self.usable[place], self._sizes(load, self.usable[place])[0])


class _Open(Goodput):
    """Admits everybody; who can no longer be answered is refused when a batch ends."""

    def admits(self, load: Load, job: Waiting) -> bool:
        self._count(load.now, job.count)
        return True


class _EverySize(Goodput):
    def _sizes(self, load: Load, point: str) -> list[int]:
        largest = super()._sizes(load, point)[0]
        totals = itertools.accumulate(job.count for job in load.waiting)
        return [n for n in totals if n <= largest][::-1] or [largest]


def shortfall(bench: Bench, count: int) -> list[dict[str, Any]]:
    """A row a cell."""
    rows = []
    base = bench.made(ways(tuple(bench.ladder), bench.deadline)["goodput"])
    assert isinstance(base, Goodput)
    names, alike = base.allowed, dict.fromkeys(base.allowed, 1.0)
    given = (names, alike, bench.costs, bench.deadline)
    least = min(bench.costs[n](bench.each) for n in names)

    def new(kind: type[Goodput] = Goodput, **more: Any) -> Goodput:
        return kind(*given, **{"free": 0.0, "worth": base.worth, **more})

    for trace, load, window in CELLS:
        times = bench.times(trace, load, window, count)

        def clean(used: Punctual, times: list[float] = times, **more: Any) -> float:
            return float(bench.judged(bench.run(times, used, **more))["effective_clean"])

        best, at = -1.0, ()
        for limits in itertools.combinations_with_replacement(WAITING, len(names) - 1):
            rule = _Thresholds(*given, free=0.0)
            rule.limits = limits
            if (found := clean(rule)) > best:
                best, at = found, limits
        rows.append(
            {
                **{"how": "shortfall", "trace": trace, "load": load, "window": window, "requests": count},
                "oracle": float(bench.judged(bench.best(times))["effective_clean"]),
                "thresholds": best,
                "thresholds_at": list(at),
                "goodput": clean(new()),
                "late admission": clean(new(_Open), lapsed=lambda a, now: now + least > a + bench.deadline),
                "batches that fill": max(clean(new(), window=share * bench.deadline) for share in FILL),
                "every size": clean(new(_EverySize)),
                "equal worths": clean(new(worth=alike)),
                **bench.about(),
            }
        )
    return rows
