"""Whether a rival beats `dual`: areas under the dials, paired by image, as means over the seeds that have run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import groups
from markdown import find, table
from plain import Row, read_bits

from rheostat.results.areas import Bits, mean_compared
from rheostat.results.comparison import MARGIN, Difference

BASE = "dual"
DATA = {
    "Fashion-MNIST": ("rival-fmnist-{}", "rival-fmnist-{}-s1"),
    "CIFAR-10 subset": ("rival-c10-{}", "rival-c10-{}-s1"),
}
"""The patterns of the runs' names, one per seed."""
Pair = tuple[Bits, Bits, tuple[float, float]]
POSITIONS = 6
CAUTION = (
    '"Significantly" means that the 95 % interval of the difference, a bootstrap paired by image, excludes 0. It '
    "covers the choice of test images but not that of seeds, and it is not corrected for the number of comparisons."
)


def curve(rows: list[Row], run: str) -> list[Row]:
    """The positions of a rival's dial over the most images, or an empty list."""
    return groups.curve(rows, run, POSITIONS)


@dataclass(frozen=True)
class Line:
    """A method beside another on one data set: the seeds, the difference of areas, and MACs and parameters."""

    name: str
    seeds: int
    difference: Difference
    macs: float
    params: int

    @property
    def text(self) -> str:
        """The method and the difference, for a sentence."""
        return f"{self.name} ({self.difference.text(1e4, 0)})"


def pair(rows: list[Row], results: Path, pattern: str, method: str, other: str) -> Pair | None:
    """Both methods' bits at every position, on the same images, and the reference of their areas; None if not run."""
    both = [curve(rows, pattern.format(m)) for m in (method, other)]
    robust = next(iter(find(rows, pattern.format("pgd-at-1"), None)), None)
    if robust is None or not all(both) or both[0][0]["n"] != both[1][0]["n"]:
        return None
    own, base = ([read_bits(results, r) for r in line] for line in both)
    return own, base, (robust["clean_accuracy"] - MARGIN, 0.0)


def beside(rows: list[Row], results: Path, patterns: tuple[str, ...], method: str, name: str) -> Line | None:
    """The method's line; None if no seed of it and of `BASE` has run."""
    made = [(p, pair(rows, results, p, method, BASE)) for p in patterns]
    found = [(pattern, bits) for pattern, bits in made if bits is not None]
    if not found:
        return None
    n = len(found[0][1][0][0][0])
    pairs = [bits for _, bits in found if len(bits[0][0][0]) == n]
    middle = curve(rows, found[0][0].format(method))[POSITIONS // 2]
    return Line(name, len(pairs), Difference(*mean_compared(pairs)), middle["macs"]["mean"], middle["params"])


def lines(rows: list[Row], results: Path, methods: Mapping[str, str]) -> dict[str, list[Line]]:
    """Data set → the methods that have run on it, the largest area first."""
    found = {}
    for data, patterns in DATA.items():
        own = [beside(rows, results, patterns, m, name) for m, name in methods.items() if m != BASE]
        found[data] = sorted((line for line in own if line is not None), key=lambda line: -line.difference.value)
    return {data: own for data, own in found.items() if own}


def sentences(found: dict[str, list[Line]]) -> list[str]:
    """One sentence per data set: which methods have a significantly larger or smaller area than `dual`."""
    out = []
    for data, own in found.items():
        better, same, worse = (
            [line for line in own if line.difference.verdict == verdict]
            for verdict in ("better", "not significantly different", "worse")
        )
        parts = [
            f"significantly better than `{BASE}`: {_listed(better, lambda line: line.text)}",
            f"not significantly different: {_listed(same, lambda line: line.name)}",
            f"significantly worse: {_listed(worse, lambda line: line.name)}",
        ]
        out.append(f"{data}: " + "; ".join(parts) + ".")
    return out


def _listed(own: list[Line], said: Callable[[Line], str]) -> str:
    return ", ".join(map(said, own)) or "none"


def section(found: dict[str, list[Line]]) -> str:
    """The verdict: sentences, and a table of all methods."""
    if not found:
        return ""
    body = [
        [
            *(data, line.name, str(line.seeds)),
            f"{line.difference.text(1e4, 0)} {line.difference.verdict}",
            *(f"{line.macs / 1e6:.1f} M", f"{line.params:,}"),
        ]
        for data, own in found.items()
        for line in own
    ]
    return (
        "### The verdict\n\n"
        + "".join(f"- {sentence}\n" for sentence in sentences(found))
        + f"\nThe area under a dial minus that of `{BASE}`, in square points: the mean over seeds, with a bootstrap "
        "95 % interval in which all runs share the resampled images. "
        + CAUTION
        + "\n\n"
        + table(["", "method", "seeds", f"area minus {BASE}'s", "MACs, middle", "parameters"], body)
        + "\n"
    )
