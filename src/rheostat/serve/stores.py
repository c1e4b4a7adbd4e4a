"""Stores: they keep a policy across restarts, and share it among servers of one folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rheostat.data.base import read_regular
from rheostat.runtime.files import write_text
from rheostat.serve.policy import Policy, parse_policy

LARGEST = 2**16
"""Bytes of the largest policy file that is read."""


class Store(Protocol):
    """Keeps a policy across restarts, and shares it among replicas."""

    def read(self) -> Policy | None:
        """The stored policy, or None."""

    def write(self, policy: Policy) -> None:
        """Store a policy atomically."""


@dataclass(frozen=True)
class FileStore:
    """A policy in a JSON file."""

    path: Path

    def read(self) -> Policy | None:
        """The stored policy, or None; ValueError if the file does not hold a policy."""
        if not self.path.exists():
            return None
        raw = read_regular(self.path, LARGEST)
        try:
            return parse_policy(raw)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def write(self, policy: Policy) -> None:
        """Store a policy atomically, by a temporary file; OSError if the disk is full or read-only."""
        write_text(self.path, json.dumps(asdict(policy), indent=1) + "\n")
