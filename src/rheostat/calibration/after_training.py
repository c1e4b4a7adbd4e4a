"""Registry of fits that a trained model needs before its dial is calibrated; files of this room add their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rheostat.attacks import Attack
from rheostat.data import Dataset
from rheostat.models.tunable import Tunable


@dataclass(frozen=True)
class Fitting:
    """A fit that some models need: its name, a test for such models, and the function (model, calibrate-fit, attack).

    The attack follows the threat model of the recipe.
    """

    what: str
    needed: Callable[[Tunable], bool]
    fit: Callable[[Tunable, Dataset, Attack], object]


FITTINGS: list[Fitting] = []


def fittings(model: Tunable) -> list[Fitting]:
    """The fits that this model needs, in the order in which they were added."""
    return [found for found in FITTINGS if found.needed(model)]
