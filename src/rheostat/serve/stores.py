"""Where a policy outlives its server, and servers of one folder meet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rheostat.data.base import read_regular
from rheostat.runtime.files import write_text
from rheostat.serve.policy import Policy, parse_policy

LARGEST = 2**16
"""Bytes of the largest file of a policy that is read."""


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
        if not self.path.exists():
            return None
        raw = read_regular(self.path, LARGEST)
        try:
            return parse_policy(raw)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def write(self, policy: Policy) -> None:
        """Store a policy through a temporary file; OSError where the disk is full or read-only."""
        write_text(self.path, json.dumps(asdict(policy), indent=1) + "\n")
