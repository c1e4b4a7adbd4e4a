"""Attackers with other knowledge of the dial: images made at another point, an unknown point, or a chosen point."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rheostat.evaluation.checks import gains
from rheostat.evaluation.chunks import Record
from rheostat.evaluation.rows import Knowledge, RowBuilder
from rheostat.results.bits import Pair
from rheostat.results.row import At, AttackEntry, Check, Measurement, Row
from rheostat.results.rows import read_rows

TRANSFER = "transfer-beats-known"
"""The flag of a worst case that images made at another point are worse than."""
BEST = ["mean over points", "best single point"]
"""What an attacker who does not know the point uses."""
COST = ("params", "nonzeros", "macs", "macs_nonzero", "convolution_nonzeros", "macs_static", "macs_papers_count")
"""Fields of a row that depend on its point but not on the attack."""


def crossed_rows(builder: RowBuilder, worst: list[Row], records: list[Record]) -> list[tuple[Row, Pair]]:
    """Rows and bits for attackers with knowledge "transfer", "unknown" and "chosen".

    `worst` is the worst case of every point, in the order of the records. Transfer (images made at another
    point): one row per pair of points. Unknown (the point is not known): per point, the worst case over an
    attack on the mean loss over all points and over the images of the single point that fool most on average.
    Chosen (the attacker chooses the point): an image counts as robust if it is correct at every point under the
    images of every point.
    """
    clean, standing = (torch.cat([r[k] for r in records], -1) for k in ("clean", "standing"))
    crossed, unknown = (torch.cat([r[k] for r in records], -1) for k in ("crossed", "unknown"))
    single = int(crossed.double().mean((1, 2)).argmin())
    out: list[tuple[Row, Pair]] = []

    def add(base: Row, at: At, knowledge: Knowledge, right: Tensor, robust: Tensor, **attack: object) -> None:
        of = _measurement(builder, base, at, knowledge, **attack)
        row = builder.row(of, right, robust, **{k: getattr(base, k) for k in COST})
        out.append((row, (right, robust)))

    for q, made in enumerate(worst):
        for p, scored in enumerate(worst):
            robust = standing[p, -1] if p == q else crossed[q, p]
            add(scored, scored.at, "transfer", clean[p], robust, made_at=made.at)
    for p, scored in enumerate(worst):
        add(scored, scored.at, "unknown", clean[p], unknown[p] & crossed[single, p], of=BEST, made_at=worst[single].at)
    stands = standing[:, -1].all(0) & crossed.flatten(0, 1).all(0)
    add(worst[0], {}, "chosen", clean.all(0), stands, of=[r.at for r in worst])
    return out


def stored_crossed(builder: RowBuilder, worst: Sequence[Measurement], there: Collection[Row]) -> list[Row] | None:
    """The rows that `crossed_rows` makes at these points, from the rows `there`; None if they do not hold all of them.

    The rows of an attacker who does not know the point do not name the points over which they were measured. So they
    count only beside a single row of an attacker who chooses the point, which names these points.
    """
    wanted = [
        *(_measurement(builder, p, p.at, "transfer", made_at=q.at) for q in worst for p in worst),
        *(_measurement(builder, p, p.at, "unknown", of=BEST) for p in worst),
        _measurement(builder, worst[0], {}, "chosen", of=[p.at for p in worst]),
    ]
    found: dict[str, list[Row]] = {}
    for row in there:
        found.setdefault(_without_best(row), []).append(row)
    chosen = _measurement(builder, worst[0], {}, "chosen")
    sets = [r for r in there if r.knowledge == "chosen" and _identity_without(r, "of") == chosen.identity]
    held = [found.get(_without_best(of), []) for of in wanted]
    if len(sets) != 1 or any(len(rows) != 1 for rows in held):
        return None
    return [rows[0] for rows in held]


def _measurement(builder: RowBuilder, base: Measurement, at: At, knowledge: Knowledge, **attack: object) -> Measurement:
    """The identity of a row of another attacker, who uses the attacks of the worst case `base`."""
    made_by = builder.unless_of_tier([name for name in base.attack.names if name != "warm"])
    budget = {"norm": base.attack.norm, "eps": base.attack.eps, "budgets": base.attack.budgets}
    entry = AttackEntry.model_validate({"name": knowledge, **budget, "attacks": made_by, **attack})
    return builder.measurement(at, entry, knowledge=knowledge)


def _identity_without(of: Measurement, field: str) -> str:
    """The identity of a row if a field of its attack were absent."""
    return of.model_copy(update={"attack": of.attack.model_copy(update={field: None})}).identity


def _without_best(of: Measurement) -> str:
    """The identity of a row; for an unknown point without the single point that was best, which only bits show."""
    return _identity_without(of, "made_at") if of.knowledge == "unknown" else of.identity


def superseded(out: Path, new: Sequence[Row]) -> list[str]:
    """Identities of the `unknown` rows in a file that new ones replace, although another single point was best then."""
    replaced = {_without_best(r): r.identity for r in new if r.knowledge == "unknown"}
    stored = [r for r in read_rows(out) if r.knowledge == "unknown"]
    return [r.identity for r in stored if replaced.get(_without_best(r), r.identity) != r.identity]


def checked_by_transfer(worst: list[Row], records: list[Record]) -> list[Row]:
    """The worst cases, flagged where images made at another point fool more than those made at their own point."""
    crossed, standing, unknown = (
        torch.cat([r[key] for r in records], -1) for key in ("crossed", "standing", "unknown")
    )
    out = []
    for p, row in enumerate(worst):
        others: list[tuple[At | str, Tensor]] = [(o.at, crossed[q, p]) for q, o in enumerate(worst) if q != p]
        others.append(("mean over points", unknown[p]))
        found = [
            Check(flag=f.flag, figures=f.figures, made_at=made)
            for made, bits in others
            for f in gains(standing[p, -1], bits, TRANSFER, points=1.0)
        ]
        if found:
            row = with_check(row, max(found, key=lambda f: f.figures["gain"]))
        out.append(row)
    return out


def with_check(row: Row, check: Check) -> Row:
    """The row with one more check that raised its flag."""
    flags = sorted({*row.flags, check.flag})
    return row.model_copy(update={"checks": [*(row.checks or []), check], "flags": flags})
