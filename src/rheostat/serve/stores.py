"""Stores: they keep a policy across restarts, and share it among servers of one model in one folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from rheostat.data.base import read_regular
from rheostat.runtime.files import write_text
from rheostat.serve.policy import Policy, parse_stored

LARGEST = 2**16
"""Bytes of the largest policy file that is read."""


class OtherModel(ValueError):
    """The stored policy was set for another model."""


class Store(Protocol):
    """Keeps a policy across restarts, and shares it among replicas."""

    def read(self) -> Policy | None:
        """The stored policy, or None."""

    def write(self, policy: Policy) -> None:
        """Store a policy atomically."""


@dataclass(frozen=True)
class FileStore:
    """A policy in a JSON file, with the hash of the model that it was set for.

    `artifact` is the hash of the model that is served; a service states that of its own model. Without it any policy
    is read, and it is stored without a hash.
    """

    path: Path
    artifact: str | None = None

    def read(self) -> Policy | None:
        """The stored policy, or None; OtherModel, or ValueError if the file does not hold a policy."""
        policy, artifact = self._found()
        if None not in (artifact, self.artifact) and artifact != self.artifact:
            raise OtherModel(f"{self.path} holds the policy of another model, {artifact!r}")
        return policy

    @property
    def of_any_model(self) -> bool:
        """Whether the file holds a policy without a model's hash, as earlier versions wrote it."""
        policy, artifact = self._found()
        return policy is not None and artifact is None

    def write(self, policy: Policy) -> None:
        """Store a policy atomically, by a temporary file; OSError if the disk is full or read-only."""
        artifact = {} if self.artifact is None else {"artifact": self.artifact}
        write_text(self.path, json.dumps(asdict(policy) | artifact, indent=1) + "\n")

    def _found(self) -> tuple[Policy | None, str | None]:
        """(the stored policy, the hash of its model); None for what the file does not hold."""
        if not self.path.exists():
            return None, None
        raw = read_regular(self.path, LARGEST)
        try:
            return parse_stored(raw)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


def of_model(store: Store | None, artifact: str) -> Store | None:
    """The store for the policy of this model."""
    return replace(store, artifact=artifact) if isinstance(store, FileStore) and store.artifact is None else store


def found_at_start(store: Store | None) -> tuple[Policy | None, str]:
    """(the stored policy with which a server starts, what its operator should know of it); ValueError as `read`."""
    if store is None:
        return None, ""
    try:
        policy = store.read()
    except OtherModel as error:
        return None, (
            f"the stored policy is not used ({error}); the command line's policy applies, and a change of policy "
            "replaces the stored one, unless --state names another file"
        )
    if isinstance(store, FileStore) and store.artifact is not None and store.of_any_model:
        return policy, (
            f"{store.path} does not say which model its policy is for, because an earlier version wrote it; it counts "
            "as that of this model, and the next change of policy stores the model's hash"
        )
    return policy, ""
