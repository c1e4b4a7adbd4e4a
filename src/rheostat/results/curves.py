"""Group rows into curves: rows of one curve agree in everything except the point.

Rows that differ in attack, tier, split, number of images or anything else are never joined by a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rheostat.results.row import Row

SHOWN = ("run", "rule", "precision", "tier", "split", "n", "dataset", "knowledge", "seed", "artifact", "dial", "attack")
"""Fields that may distinguish two curves by name, in order of preference."""


def key_of(row: Row, *, along: str | None = None) -> str:
    """The key that the rows of a curve share: every field except the point, or except one dial of it (`along`).

    It ignores data hashes: some rows of version 1 have none, and a file holds only one data set for each name, split
    and number of images.
    """
    shared = {k: getattr(row, k) for k in ("tier_version", "attack_precision", "cumulative", *SHOWN) if k != "attack"}
    shared["attack"] = row.attack.plain()
    if row.corruption is not None:
        shared["corruption"] = row.corruption.model_dump(mode="json")
    if along is not None:
        shared["at"] = {k: v for k, v in row.at.items() if k != along}
        shared["has"] = along in row.at
    return json.dumps(shared, sort_keys=True)


def curves(rows: Iterable[Row], *, along: str | None = None) -> dict[str, list[Row]]:
    """Group rows into curves, each sorted by its points, in order of first appearance.

    If `along` names a dial, the rows of one curve also agree in all other dials.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key_of(row, along=along), []).append(row)
    return {key: sorted(line, key=lambda r: list(r.at.values())) for key, line in found.items()}


def curve_names(lines: Sequence[Sequence[Row]]) -> list[str]:
    """A name for each curve: its run, its rule between norm sets, and the fields that distinguish it from others."""
    fields: list[str] = []
    names = [_name(line, fields) for line in lines]
    for field in ("at", *SHOWN[2:]):
        if len(set(names)) == len(names):
            break
        if len({_shown(line, field) for line in lines}) > 1:
            fields.append(field)
            names = [_name(line, fields) for line in lines]
    return names


def _name(line: Sequence[Row], fields: Iterable[str]) -> str:
    row = line[0]
    run = row.run if row.rule is None else f"{row.run} (λ, {row.rule})"
    return ", ".join([run, *filter(None, (_shown(line, field) for field in fields))])


def _shown(line: Sequence[Row], field: str) -> str:
    """A field of a curve as text; for the point, the dials that are constant along the curve."""
    row = line[0]
    if field == "at":
        still = {k: v for k, v in row.at.items() if all(r.at.get(k) == v for r in line) and len(line) > 1}
        return ", ".join(f"{k} = {v:g}" for k, v in still.items())
    if field == "attack":
        names = [f"{name}{_settings(stated(row, name))}" for name in row.attack.names]
        return f"{', '.join(names)}, {row.attack.norm} {row.attack.eps:.4g}"
    value = getattr(row, field)
    return f"{field} = {value}" if field in ("n", "seed", "dial") else str(value)


def stated(row: Row, name: str) -> dict[str, Any]:
    """The settings of an attack of a row that its name does not imply."""
    found = next((one for one in row.attack.budgets or () if one["name"] == name), {})
    return {k: v for k, v in found.items() if k != "name"}


def same_attacks(a: Row, b: Row) -> bool:
    """Whether two rows name the same attacks besides their tier's, with the same settings."""
    return (a.attack.attacks, a.attack.budgets) == (b.attack.attacks, b.attack.budgets)


def _settings(settings: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{k} {v}' for k, v in settings.items())})" if settings else ""


def same_ball(a: Row, b: Row) -> bool:
    """Whether two rows are under attacks of one norm and radius."""
    return (a.attack.norm, a.attack.eps) == (b.attack.norm, b.attack.eps)


def same_setting(a: Row, b: Row) -> bool:
    """Whether two rows share run, model, data and seed; they may differ in point, attack and knowledge."""
    fields = (
        "run",
        "artifact",
        "dataset",
        "split",
        "rule",
        "tier",
        "tier_version",
        "n",
        "seed",
        "precision",
        "attack_precision",
    )
    return all(getattr(a, field) == getattr(b, field) for field in fields)
