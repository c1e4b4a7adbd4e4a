"""The models that ship: an index of names, files with their hashes, data and figures; where each file is."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from rheostat.models.fetching import cache_folder
from rheostat.results.labels import eps_label

INDEX = "zoo.json"
"""The file of the index, beside this one; `benchmarks/pages/build.py` writes it from the files and rows alone."""
LARGEST = 1_500_000
"""Bytes of the largest file that comes with the package; larger ones are fetched when they are first asked for."""
SOURCE = Path(__file__).parents[3] / "models"
"""The folder of the larger files in a source tree; an installed package has none."""

Where = Literal["package", "repository"]


@dataclass(frozen=True)
class Figure:
    """Accuracies at one position of the dial, under the attacks of one tier; shares in [0, 1] with 95 % intervals."""

    robustness: float
    tier: str
    attacks: tuple[str, ...]
    split: str
    n: int
    clean: float
    robust: float
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]


@dataclass(frozen=True)
class Shipped:
    """A model that ships: its file, by name and hashes, what it was trained on and against, and measured figures.

    `where`: with the package, or in the folder `models/` of the repository. `sha256` and `bytes` are those of the
    file, `digest` is the hash by which rows name the model. `eps` is in units of [0, 1].
    """

    name: str
    file: str
    where: Where
    sha256: str
    bytes: int
    digest: str
    composition: str
    data: str
    licence: str
    norm: str
    eps: float
    figures: tuple[Figure, ...]

    def at(self, robustness: float, tier: str) -> Figure | None:
        """The figures at a position of the dial under a tier; None where they were not measured."""
        return next((f for f in self.figures if (f.robustness, f.tier) == (robustness, tier)), None)

    def headline(self) -> tuple[float | None, float | None, float | None, float | None]:
        """SA at the clean end; SA, RA by PGD-20 and RA of the tier `standard` at the robust end; None: not measured."""
        clean, robust, strong = self.at(0.0, "quick"), self.at(1.0, "quick"), self.at(1.0, "standard")
        return (
            clean.clean if clean is not None else None,
            robust.clean if robust is not None else None,
            robust.robust if robust is not None else None,
            strong.robust if strong is not None else None,
        )

    @property
    def threat(self) -> str:
        """Eps as text, and the norm where it is not L∞: "0.1", "8/255", "l2 0.5"."""
        return eps_label(self.eps) if self.norm == "linf" else f"{self.norm} {eps_label(self.eps)}"

    @property
    def path(self) -> Path:
        """Where the file is on this machine, or will be once it is fetched."""
        if self.where == "package":
            return artifacts() / self.file
        return self.source or self.cached

    @property
    def source(self) -> Path | None:
        """The file in `models/` if the package runs from a source tree that holds it with the right size."""
        found = SOURCE / self.file
        return found if self.where == "repository" and self._whole(found) else None

    @property
    def cached(self) -> Path:
        """Where the file is in the cache, or will be once it is fetched."""
        return cache_folder() / self.file

    def _whole(self, path: Path) -> bool:
        """Whether a file is there with the right size; `fetch` compares its hash when the model is loaded."""
        return path.is_file() and path.stat().st_size == self.bytes

    @property
    def state(self) -> str:
        """Whether it is packaged, in the source tree, cached or not fetched; a file counts if its size is right."""
        if self.where == "package":
            return "packaged"
        if self.source is not None:
            return "in models/"
        return "cached" if self._whole(self.cached) else "not fetched"


def artifacts() -> Path:
    """The folder of the files that come with the package."""
    return Path(str(resources.files("rheostat.models"))) / "artifacts"


@functools.cache
def index() -> dict[str, Shipped]:
    """Every model that ships, by name."""
    text = (resources.files("rheostat.models") / INDEX).read_text(encoding="utf-8")
    return {entry["name"]: parsed(entry) for entry in json.loads(text)["models"]}


def parsed(entry: dict[str, Any]) -> Shipped:
    """An entry of the index as a value."""
    figures = tuple(Figure(**{k: _frozen(v) for k, v in figure.items()}) for figure in entry["figures"])
    return Shipped(**{**entry, "figures": figures})


def _frozen(value: Any) -> Any:
    """A list of JSON as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def names() -> list[str]:
    """The names of the models that ship, in order."""
    return sorted(index())


def by_digest(digest: str) -> Shipped | None:
    """The model that ships whose outputs are those of a file with this hash; None where there is none."""
    return next((entry for entry in index().values() if entry.digest == digest), None)


def ships(path: Path) -> bool:
    """Whether a file is one that ships, with the package, in `models/` or in the cache: nothing is written into it."""
    path = path.resolve()
    if path.parent == artifacts().resolve():
        return True
    places = [p for entry in index().values() if entry.where == "repository" for p in (entry.source, entry.cached)]
    return any(path == place.resolve() for place in places if place is not None)
