"""src/rheostat/models/zoo.json: the models that ship, read from their files and rows; nothing in it is typed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rheostat.models.artifact import digest, load_with
from rheostat.models.fetching import sha256
from rheostat.models.zoo import LARGEST, Figure, Shipped, Where
from rheostat.results.labels import worst_rows
from rheostat.results.row import Row
from rheostat.results.rows import read_rows

ROOT = Path(__file__).parents[2]
FOLDERS: dict[Where, str] = {"package": "src/rheostat/models/artifacts", "repository": "models"}
"""The folders of the files that ship, relative to the repository."""
INDEX = Path("src/rheostat/models/zoo.json")
ROWS = ROOT / "benchmarks" / "results" / "zoo.jsonl"
LICENCES = {
    "digits": "CC BY 4.0",
    "fashion-mini": "MIT",
    "fashion-mnist": "MIT",
    "mnist": "CC BY-SA 3.0",
    "cifar10": "none stated",
}
"""The licence under which the authors published each data set."""
SHOWN = ((0.0, "quick"), (1.0, "quick"), (0.0, "standard"), (0.5, "standard"), (1.0, "standard"))
"""The positions of the dial and the tiers whose figures the index holds."""


def place_of(size: int) -> Where:
    """Where a file of `size` bytes ships: up to 1.5 MB with the package."""
    return "package" if size <= LARGEST else "repository"


def shipped(root: Path = ROOT, rows: Iterable[Row] | None = None) -> list[Shipped]:
    """All models that ship, by name, from the files below a repository's root and the rows of these models."""
    known = list(read_rows(ROWS) if rows is None else rows)
    files = [(where, f) for where, folder in FOLDERS.items() for f in (root / folder).glob("*.safetensors")]
    names = [f.stem for _, f in files]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{twice[0]} ships twice: in {' and in '.join(FOLDERS.values())}")
    return [_entry(where, file, known) for where, file in sorted(files, key=lambda pair: pair[1].stem)]


def _entry(where: Where, file: Path, rows: list[Row]) -> Shipped:
    _, about = load_with(file)
    size = file.stat().st_size
    if place_of(size) != where:
        raise ValueError(f"{file}: {size} bytes belong in {FOLDERS[place_of(size)]} (at most {LARGEST} in the package)")
    recipe, own = about.provenance["recipe"], digest(file)
    data = recipe["data"]["name"]
    if data not in LICENCES:
        raise ValueError(f"{file}: the licence of {data!r} is not in LICENCES of {Path(__file__).name}")
    ours = [r for r in rows if r.artifact == own]
    return Shipped(
        name=file.stem,
        file=file.name,
        where=where,
        sha256=sha256(file),
        bytes=size,
        digest=own,
        composition=recipe["paper"],
        data=data,
        licence=LICENCES[data],
        norm=about.threat["norm"],
        eps=about.threat["eps"],
        figures=tuple(f for at, tier in SHOWN if (f := _figure(ours, at, tier)) is not None),
    )


def along(rows: Iterable[Row], tier: str, *, split: str = "test") -> list[Row]:
    """The worst-case rows of one model along its dial, for an attacker who knows the point, by position.

    All rows of a line have the same number of images: that on which most positions were measured, the largest if
    several have as many.
    """
    found = []
    for row in worst_rows(list(rows)):
        known = row.knowledge == "known" and row.rule is None and row.corruption is None
        if not known or (row.tier, row.split) != (tier, split) or set(row.at) != {"robustness"}:
            continue
        found.append(row)
    sizes = [r.n for r in found]
    most = max(sizes, key=lambda n: (sizes.count(n), n), default=0)
    return sorted((r for r in found if r.n == most), key=lambda r: r.at["robustness"])


def _figure(rows: list[Row], at: float, tier: str) -> Figure | None:
    row = next((r for r in along(rows, tier) if r.at["robustness"] == at), None)
    if row is None:
        return None
    return Figure(
        at,
        tier,
        row.attack.names,
        row.split,
        row.n,
        row.clean_accuracy,
        row.robust_accuracy,
        row.interval.clean,
        row.interval.robust,
    )


def text(models: Iterable[Shipped]) -> str:
    """The index as JSON."""
    plain: list[dict[str, Any]] = [dataclasses.asdict(m) for m in models]
    return json.dumps({"models": plain}, indent=1, ensure_ascii=False) + "\n"
