"""Paired comparison of two runs on the same images: differences at each point and of the areas under their dials."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rheostat.results.areas import compared
from rheostat.results.bits import PackedBits, read_bits
from rheostat.results.intervals import paired
from rheostat.results.labels import point_label, worst_rows
from rheostat.results.row import At, Row
from rheostat.results.rows import read_rows, rows_file
from rheostat.runtime.choices import nearest

MARGIN = 0.02
Key = frozenset[tuple[str, float]]
"""The positions of the dials that both runs have."""


@dataclass(frozen=True)
class Difference:
    """The first run less the second, as a fraction, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """The conclusion from the interval: "better", "worse", or "not significantly different"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not significantly different"

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """The difference as text, in points: +2.5 [+1.5, +3.4]."""
        values = (scale * v for v in (self.value, self.low, self.high))
        return "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(*values, d=digits)


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    names: tuple[str, str]
    n: int
    """Number of images, the same for both runs."""
    under: str
    """Attacks, norm and radius, data and split."""
    points: tuple[tuple[str, Difference, Difference], ...]
    """(label, difference in SA, difference in RA) at every point that both runs have."""
    area: Difference | None
    """Difference of the areas dominated in (SA, RA); None with fewer than three points."""
    above: float
    """Areas count only above this SA."""


@dataclass(frozen=True)
class Side:
    """The rows of one run and their bits."""

    name: str
    rows: tuple[Row, ...]
    bits: PackedBits


def sides(rows: list[Row], file: Path) -> list[Side]:
    """All runs that have rows in a file; rows of files in a lower precision are left out."""
    kept = [r for r in worst_rows(rows) if r.knowledge == "known" and r.precision == "fp32"]
    bits = read_bits(file)
    return [Side(n, tuple(r for r in kept if r.run == n), bits) for n in dict.fromkeys(r.run for r in kept)]


def side(given: str) -> Side:
    """The run of a folder or of a rows file, or of FILE:NAME if the file holds several runs."""
    path, name = Path(given), ""
    if not path.exists() and ":" in given:
        # Both parts may hold colons: a run of a factory is named package.module:function.
        colons = [i for i, sign in enumerate(given) if i and sign == ":"]
        end = next((i for i in colons if Path(given[:i]).exists()), given.rindex(":"))
        path, name = Path(given[:end]), given[end + 1 :]
    file = rows_file(path)
    found = {s.name: s for s in sides(read_rows(file), file)}
    if not found:
        raise ValueError(f"no rows in {given}; run `rheostat evaluate {given}` first")
    if not name and len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} runs; name one: {path}:{next(iter(found))}")
    name = name or next(iter(found))
    if name not in found:
        raise ValueError(f"{path} has no run {name!r}; {nearest(name, found)}")
    return found[name]


def compare(
    first: Side,
    second: Side,
    *,
    tier: str = "quick",
    between: str | None = None,
    at: At | None = None,
    above: float | None = None,
) -> Comparison:
    """The first run less the second, at every point that both have on the same images.

    Rows are paired by tier, rule between norm sets, attacks, norm, radius, data, split and number of images (the
    largest that both have), and by the dials that both runs have; `at` fixes additional dials of one run. Areas count
    above the SA `above`, by default the lowest SA less 2 points. ValueError if no rows can be paired, if a point
    pairs twice, or if one run's positions are training λ and the other's are those of a calibrated dial.
    """
    a, b = _matched(first, second, tier, between, at or {})
    both = [key for key in a if key in b]
    if not both:
        described = "; ".join(
            f"{s.name} has {', '.join(point_label(r) for r in found.values())}"
            for s, found in ((first, a), (second, b))
        )
        raise ValueError(f"no point in common: {described}")
    for key in both:
        names = {a[key].dial: first.name, b[key].dial: second.name}
        between_ends = 0 < dict(key).get("robustness", 0.0) < 1  # λ = t at 0 and at 1
        if names.keys() == {"lambda", "t"} and between_ends:
            raise ValueError(
                f"the positions of {names['lambda']} are training λ and those of {names['t']} are t of a calibrated "
                "dial, which differ: calibrate both dials, or measure both by one rule between norm sets (rheostat "
                "evaluate RUN --between at-0) and compare with --between at-0"
            )
    ours = [first.bits.of(a[key]) for key in both]
    theirs = [second.bits.of(b[key]) for key in both]
    if above is None:
        above = min(r.clean_accuracy for r in (*a.values(), *b.values())) - MARGIN
    area = Difference(*compared(ours, theirs, (above, 0.0))) if len(both) > 2 else None
    points = []
    for key, x, y in zip(both, ours, theirs, strict=True):
        label = point_label(a[key], dict(key) or None)
        clean, robust = (Difference(*paired(x[i], y[i])) for i in (0, 1))
        points.append((label, clean, robust))
    row = a[both[0]]
    attack = row.attack
    under = f"{', '.join(attack.names)}, {attack.norm}, eps {attack.eps:g}; {row.dataset}, {row.split}"
    return Comparison((first.name, second.name), row.n, under, tuple(points), area, above)


def _matched(
    first: Side, second: Side, tier: str, between: str | None, fixed: dict[str, float]
) -> list[dict[Key, Row]]:
    """Each run's rows by point, on the images and under the attacks that both runs have."""
    sides = first, second
    dials = {name for s in sides for row in s.rows for name in row.at}
    for name in fixed:
        if name not in dials:
            raise ValueError(f"no row has a dial {name!r}; {nearest(name, dials)}")
    asked = [
        [
            r
            for r in s.rows
            if (r.tier, r.rule) == (tier, between) and all(r.at.get(k, v) == v for k, v in fixed.items())
        ]
        for s in sides
    ]
    shared = set.intersection(*({_images(r) for r in rows} for rows in asked))
    if not shared:
        described = " and ".join(f"{s.name} has {_have(s.rows)}" for s in sides)
        rule = f", rule {between!r}" if between else ""
        raise ValueError(f"no rows can be paired by tier {tier!r}{rule}: {described}")
    chosen = max(shared, key=lambda key: (json.loads(key)["n"], key))
    kept = [[r for r in rows if _images(r) == chosen] for rows in asked]
    hashes = [{r.dataset_hash for r in rows if r.dataset_hash is not None} for rows in kept]
    if all(hashes) and hashes[0] != hashes[1]:
        raise ValueError(f"{first.name} and {second.name} were measured on different images")
    dials = set.intersection(*(set(r.at) for rows in kept for r in rows))
    return [_by_point(s, rows, dials) for s, rows in zip(sides, kept, strict=True)]


def _images(row: Row) -> str:
    """The properties that two rows must share to be paired: images and attacks."""
    shared = {"dataset": row.dataset, "split": row.split, "n": row.n, "tier_version": row.tier_version}
    shared["attack_precision"] = row.attack_precision
    return json.dumps({**shared, "attack": row.attack.plain()}, sort_keys=True)


def _by_point(of: Side, rows: list[Row], dials: set[str]) -> dict[Key, Row]:
    out: dict[Key, Row] = {}
    for row in rows:
        key = frozenset((k, v) for k, v in row.at.items() if k in dials)
        if key in out and out[key].at != row.at:
            more = sorted(set(row.at) - dials)
            raise ValueError(
                f"{of.name} was measured at several positions of {', '.join(more)}, a dial that the other "
                f"run does not have; fix it: --at {more[0]}={row.at[more[0]]:g}"
            )
        out[key] = row  # the last row written counts, if a model was trained again
    return out


def _have(rows: tuple[Row, ...]) -> str:
    """A short description of a run's rows."""
    found = dict.fromkeys(
        f"{r.tier}{'' if r.rule is None else ' by ' + r.rule} on {r.n} of {r.dataset} "
        f"{r.split} under {', '.join(r.attack.names)} at {r.attack.eps:g}"
        for r in rows
    )
    return "; ".join(found) or "no rows"
