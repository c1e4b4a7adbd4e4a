"""Policy: which points a server may stand at, and the ladder it walks with its load."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rheostat.runtime.choices import nearest
from rheostat.runtime.files import write_text

DOWN_AFTER = 3
"""Batches in a row that waited too long before the server steps down."""
UP_AFTER = 2.0
"""Seconds of short waits before it steps up again: far slower, so that it does not swing."""
CALM = 0.3
"""A wait below this share of the target is short."""


@dataclass(frozen=True)
class Policy:
    """What whoever holds the token decides.

    `ladder`: names of points, the one preferred first; later ones are cheaper. `target_ms`: the wait in
    the queue above which the server steps down the ladder. `min_robust`: no point whose measured robust
    accuracy (its lower bound where there is one) lies below is ever used.
    """

    ladder: tuple[str, ...]
    target_ms: float = 50.0
    min_robust: float = 0.0


def checked(policy: Policy, measured: dict[str, dict[str, Any]]) -> Policy:
    """The policy, if these named points can keep it; ValueError otherwise."""
    if not policy.ladder:
        raise ValueError("a policy names at least one point in its ladder")
    if len(set(policy.ladder)) != len(policy.ladder):
        raise ValueError("a point stands once in a ladder")
    if not 0 < policy.target_ms <= 60000:
        raise ValueError(f"target_ms lies above 0 and up to 60000, given {policy.target_ms:g}")
    if not 0 <= policy.min_robust <= 1:
        raise ValueError(f"min_robust is a share from 0 to 1, given {policy.min_robust:g}")
    for name in policy.ladder:
        if name not in measured:
            raise ValueError(f"no point named {name!r}; {nearest(name, measured)}")
    if not floor(policy, measured):
        raise ValueError(f"no point of the ladder has a measured robust accuracy of {policy.min_robust:g}")
    return policy


def robustness_of(numbers: dict[str, Any]) -> float:
    """A point's measured robust accuracy for a floor: its lower bound; 0 where none was measured."""
    return float(numbers.get("robust_bound", numbers.get("robust_accuracy", 0.0)))


def floor(policy: Policy, measured: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """The points of the ladder that keep `min_robust`, in its order."""
    return tuple(n for n in policy.ladder if robustness_of(measured[n]) >= policy.min_robust)


class Ladder:
    """Where on the ladder the server stands; moved by how long batches waited."""

    def __init__(self, allowed: tuple[str, ...], target_ms: float) -> None:
        self.allowed, self.target_ms = allowed, target_ms
        self.place = self.late = 0
        self.calm_since: float | None = None

    @property
    def name(self) -> str:
        """The point that is used now."""
        return self.allowed[self.place]

    def observe(self, waited_ms: float, now: float) -> int:
        """Note a batch's longest wait; -1 stepped up, 1 stepped down, 0 stayed."""
        if waited_ms > self.target_ms:
            self.calm_since = None
            self.late += 1
            if self.late >= DOWN_AFTER and self.place < len(self.allowed) - 1:
                self.place, self.late = self.place + 1, 0
                return 1
            return 0
        self.late = 0
        if waited_ms > CALM * self.target_ms:
            self.calm_since = None
            return 0
        self.calm_since = now if self.calm_since is None else self.calm_since
        if now - self.calm_since >= UP_AFTER and self.place > 0:
            self.place, self.calm_since = self.place - 1, now
            return -1
        return 0


class Store(Protocol):
    """Where a policy outlives its server, and replicas of it meet."""

    def read(self) -> Policy | None:
        """The stored policy, or None."""

    def write(self, policy: Policy) -> None:
        """Store a policy, whole."""


@dataclass(frozen=True)
class FileStore:
    """A policy in a JSON file."""

    path: Path

    def read(self) -> Policy | None:
        """The stored policy, or None; ValueError for a file that is not one."""
        if not self.path.is_file():
            return None
        try:
            return parse(json.loads(self.path.read_text()))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path}: not JSON ({error})") from None

    def write(self, policy: Policy) -> None:
        """Store a policy through a temporary file."""
        write_text(self.path, json.dumps(asdict(policy), indent=1) + "\n")


def parse(found: object) -> Policy:
    """A policy from JSON; ValueError names what is wrong."""
    known = ("ladder", "target_ms", "min_robust")
    if not isinstance(found, dict):
        raise ValueError("a policy is a JSON object")
    for key in found:
        if key not in known:
            raise ValueError(f"a policy has no {key!r}; {nearest(str(key), known)}")
    ladder = found.get("ladder")
    if not isinstance(ladder, list) or not all(isinstance(n, str) for n in ladder):
        raise ValueError("ladder is a list of point names")
    numbers = {k: found[k] for k in known[1:] if k in found}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ValueError(f"{key} is a number, given {value!r}")
    return Policy(tuple(ladder), **{k: float(v) for k, v in numbers.items()})
