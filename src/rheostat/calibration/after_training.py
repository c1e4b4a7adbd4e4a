"""What a finished model needs fitted before its dial is: each file of this room enters its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rheostat.attacks import Attack
from rheostat.data import Dataset
from rheostat.models.tunable import Tunable


@dataclass(frozen=True)
class Fitting:
    """A calibration that some models need: which, and how, from calibrate-fit and an attack of the threat model."""

    what: str
    needed: Callable[[Tunable], bool]
    fit: Callable[[Tunable, Dataset, Attack], object]


FITTINGS: list[Fitting] = []


def fittings(model: Tunable) -> list[Fitting]:
    """What this model needs, in the order of entry."""
    return [found for found in FITTINGS if found.needed(model)]
