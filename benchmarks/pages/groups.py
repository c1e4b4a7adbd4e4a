"""The names of the study's runs: for each data set and training seed, a run of each method."""

from __future__ import annotations

from dataclasses import dataclass

from markdown import find
from plain import Row

METHODS = {
    "mixing": "logit mixing",
    "dual": "dual",
    "oat": "OAT",
    "oats": "OATS, width 1",
    "float": "FLOAT",
    "float-slim": "FLOAT-slim, width 1",
    "floats-0.5": "FLOATS 0.5",
    "floats-0.3": "FLOATS 0.3",
    "floats-0.1": "FLOATS 0.1",
    "smart": "SMART 0.367 (10 epochs)",
}
TWICE = {
    "dual": "dual, 12 epochs",
    "float": "FLOAT, 12 epochs",
    "floats-0.3": "FLOATS 0.3, 12 epochs",
    "smart": "SMART 0.367, 12 epochs",
    "oat": "OAT, batches of 64",
}
"""Runs with as many attacked images as OAT in 6 epochs and twice as many updates: methods that train in halves, for
12 epochs, and OAT with half the batch."""


@dataclass(frozen=True)
class Group:
    """Runs of one data set and seed that were trained alike."""

    name: str
    runs: dict[str, str]
    """The name of each method's run."""
    twice: dict[str, str]
    """The names of the runs with twice the updates."""
    dedicated: str
    """The names of dedicated runs, with {} for λ."""

    def at(self, level: str) -> str:
        """The name of the dedicated run at a λ."""
        return self.dedicated.format(level)


def _cifar(seed: str) -> Group:
    twice = {m: f"c10-{m}-{'b64' if m == 'oat' else 'e12'}{seed}" for m in TWICE}
    runs = {m: f"c10-{m}{seed}" for m in METHODS}
    return Group(f"CIFAR-10 subset, seed {1 if seed else 0}", runs, twice, "c10-pgd-at-{}" + seed)


GROUPS = (
    Group(
        "Fashion-MNIST, seed 0",
        {
            "mixing": "mixing-fashion",
            "dual": "dual-fashion",
            "oat": "oat-fashion",
            "oats": "oats-fashion",
            "float": "float-fashion",
            "float-slim": "float-slim-fashion",
            "floats-0.5": "floats-0.5",
            "floats-0.3": "floats-0.3",
            "floats-0.1": "floats-0.1",
            "smart": "smart-fashion-e10",
        },
        {
            "dual": "dual-fashion-e12",
            "float": "float-fashion-e12",
            "floats-0.3": "floats-0.3-e12",
            "smart": "smart-e12",
            "oat": "oat-b64",
        },
        "pgd-at-{}",
    ),
    Group(
        "Fashion-MNIST, seed 1",
        {
            "mixing": "mixing-s1",
            "dual": "dual-s1",
            "oat": "oat-s1",
            "float": "float-s1",
            "floats-0.3": "floats-0.3-s1",
            "smart": "smart-e10-s1",
        },
        {"dual": "dual-e12-s1", "float": "float-e12-s1"},
        "pgd-at-{}-s1",
    ),
    _cifar(""),
    _cifar("-s1"),
)


def reference(rows: list[Row], group: Group) -> tuple[float, float] | None:
    """The (SA, RA) above which areas count: SA of the dedicated model at λ = 1 minus 2 points, and 0."""
    base = next(iter(find(rows, group.at("1"), None)), None)
    return None if base is None else (base["clean_accuracy"] - 0.02, 0.0)


def dedicated(rows: list[Row], group: Group) -> list[tuple[str, Row]]:
    """(λ, row) of every network trained for one λ."""
    return [(v, r) for v in ("0", "0.2", "0.5", "1") for r in find(rows, group.at(v), None)]


def steps(speed: list[Row]) -> dict[str, float]:
    """Time of a training step ÷ that of PGD-AT, on the study's narrow network."""
    name = "narrow ResNet-8, PGD-2: every step"
    return {r["a"]: r["ratio"]["median"] for r in speed if r["name"].startswith(name)}


def curves(rows: list[Row], run: str, positions: int = 11) -> dict[int, list[Row]]:
    """A run's positions of the calibrated dial under `quick`, at full width, by number of images; whole curves only."""
    found: dict[int, list[Row]] = {}
    for r in find(rows, run, None):
        if "robustness" in r["at"] and r["at"].get("width", 1.0) == 1.0 and not r["at"].get("exit"):
            found.setdefault(r["n"], []).append(r)
    return {n: line for n, line in found.items() if len(line) == positions}


def curve(rows: list[Row], run: str, positions: int = 11) -> list[Row]:
    """The curve over the most images, or an empty list."""
    found = curves(rows, run, positions)
    return found[max(found)] if found else []
