"""The time of a batch at each point: measured when the server starts, or read from rows of `rheostat bench`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from rheostat.deploy.bench_times import UNKNOWN, Wanted, fastest_times
from rheostat.deploy.leaving import unknown_line
from rheostat.serve.decoding import Array

Key = TypeVar("Key", bound=Hashable)
GAIN = 0.1
"""The server warns about a step of the ladder that saves less than this share of the time."""
PASSES = 5
"""Timed passes for each point and batch size, after one untimed warm-up pass."""


@dataclass(frozen=True)
class Times:
    """Seconds of one pass as a function of its images: linear between the measured sizes and beyond them."""

    measured: tuple[tuple[int, float], ...]
    """(images, seconds), smallest batch first."""
    early: bool = True
    """False if the point has live exits and it is not known which of them images take: none leaves early."""
    file: Path | None = field(default=None, compare=False)
    """The file that the times were read from; None: measured here."""

    def __post_init__(self) -> None:
        sizes = [n for n, _ in self.measured]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError(f"batch sizes of measured times must rise from at least 1; given {sizes}")
        if any(not (s > 0 and math.isfinite(s)) for _, s in self.measured):
            raise ValueError(f"the time of a pass must be above 0; given {[s for _, s in self.measured]}")

    def __call__(self, images: int) -> float:
        """Seconds of a pass of `images` images."""
        first, last = self.measured[0], self.measured[-1]
        if images <= first[0]:
            return first[1]
        for low, high in itertools.pairwise(self.measured):
            if images <= high[0]:
                return low[1] + (high[1] - low[1]) * (images - low[0]) / (high[0] - low[0])
        return last[1] * images / last[0]

    @property
    def typical(self) -> float:
        """Seconds per image: the geometric mean over the measured sizes."""
        return math.exp(sum(math.log(s / n) for n, s in self.measured) / len(self.measured))


Costs = Mapping[str, Times]
"""Point name → its times."""


def sizes_up_to(most: int) -> tuple[int, ...]:
    """The batch sizes to measure: powers of four from 1, and the largest batch, `most`."""
    found = [1]
    while 4 * found[-1] < most:
        found.append(4 * found[-1])
    return (*found, most) if most > 1 else (1,)


def measure(
    runs: Mapping[Key, Callable[[Array], Array]],
    image: tuple[int, int, int],
    most: int,
    *,
    passes: int = PASSES,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Times]:
    """The median time of every point at each size. Points take turns, so that a noisy moment affects all of them.

    All passes are of noise, so the runs of a point with live exits are `planned`.
    """
    found: dict[Key, list[tuple[int, float]]] = {name: [] for name in runs}
    for size in sizes_up_to(most):
        x = np.random.default_rng(0).random((size, *image)).astype(np.float32)
        spent: dict[Key, list[float]] = {name: [] for name in runs}
        for number in range(passes + 1):
            for name, run in runs.items():
                started = clock()
                run(x)
                if number:
                    spent[name].append(clock() - started)
        for name, times in spent.items():
            found[name].append((size, max(float(np.median(times)), 1e-9)))
    return {name: Times(tuple(times)) for name, times in found.items()}


def from_rows(
    path: Path,
    points: Mapping[str, Mapping[str, float]],
    *,
    artifact: str,
    forms: Mapping[str, Sequence[str]],
    live: Collection[str] = (),
) -> dict[str, Times]:
    """Read the times that `rheostat bench --out` wrote; each point uses the fastest of its `forms`.

    `live` names the points with live exits. ValueError as `fastest_times` raises it.
    """
    wanted = {name: Wanted(repr(name), at, forms[name], name in live) for name, at in points.items()}
    return {
        name: Times(tuple((n, ms / 1e3) for n, ms in times.milliseconds), times.early, path)
        for name, times in fastest_times(path, wanted, artifact=artifact).items()
    }


def late_exits(costs: Costs) -> list[str]:
    """A warning for each source of times that names the points that it timed without early exits."""
    late = {name: times.file for name, times in costs.items() if not times.early}
    here = [name for name, file in late.items() if file is None]
    read = {file: [n for n, own in late.items() if own == file] for file in late.values() if file is not None}
    return [*([unknown_line(here)] if here else []), *(f"{', '.join(n)}: {f} {UNKNOWN}" for f, n in read.items())]


def ordered(ladder: tuple[str, ...], costs: Costs) -> tuple[str, ...]:
    """The ladder ordered by measured time: the preferred point stays first, the others run from slowest to fastest.

    Two points whose times differ by less than `GAIN` keep their given order.
    """
    rest = list(ladder[1:])
    for end in range(len(rest), 1, -1):
        for i in range(end - 1):
            if _saves(costs[rest[i + 1]], costs[rest[i]]):
                rest[i], rest[i + 1] = rest[i + 1], rest[i]
    return (*ladder[:1], *rest)


def _saves(slow: Times, fast: Times) -> bool:
    return fast.typical <= (1 - GAIN) * slow.typical


def idle_steps(ladder: tuple[str, ...], costs: Costs) -> list[str]:
    """A warning for each step of an ordered ladder that saves too little time."""
    return [
        f"the step from {slow} to {fast} saves no time: {1e3 * costs[slow].typical:.3g} ms an image and "
        f"{1e3 * costs[fast].typical:.3g} ms, less than {100 * GAIN:.0f} % apart; each step of a ladder should save "
        "time (rheostat choose --ladder)"
        for slow, fast in itertools.pairwise(ladder)
        if not _saves(costs[slow], costs[fast])
    ]
