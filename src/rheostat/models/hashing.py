"""Hashes of models.

`digest_of_model` covers all that decides the outputs, and rows name a model by it; `tensors_hash` covers the tensors
alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.models.tunable import Tunable
from rheostat.points.point import Point

DECISIVE = ("composition", "net", "dials", "dial_map")
"""The keys of a description that decide the outputs of a model, beside its tensors."""


@dataclass(frozen=True)
class Origin:
    """What a loaded model was when it was loaded, so that later changes to it show."""

    current: str
    """What this version writes for it under the keys `DECISIVE`, as JSON."""
    written: dict[str, Any]
    """What its file holds there; a file of an earlier version lacks options that are newer."""
    tensors: str
    points: dict[str, Point]
    measured: dict[str, Any]

    def outdated(self, model: Tunable, tensors: str) -> set[str]:
        """The points whose measured numbers no longer hold for the model, whose tensors have this hash."""
        same = tensors == self.tensors and as_json(_current(model)) == self.current
        return {name for name in self.measured if not same or model.points.get(name) != self.points.get(name)}


def as_loaded(model: Tunable, written: Mapping[str, Any], measured: Mapping[str, Any]) -> Origin:
    """The origin of a model that was just loaded from a file with this description and these measured numbers."""
    own = {k: written.get(k) for k in DECISIVE}
    return Origin(as_json(_current(model)), own, tensors_hash(model.stored()), dict(model.points), dict(measured))


def decisive(model: Tunable) -> dict[str, Any]:
    """The part of a model's description under the keys `DECISIVE`: that of its file, if the model is still the same.

    A network without a spec, which no file can hold, is described by its structure.
    """
    current, origin = _current(model), model.origin
    return origin.written if origin is not None and as_json(current) == origin.current else current


def _current(model: Tunable) -> dict[str, Any]:
    return {
        "composition": repr(model.method),
        "net": getattr(model.net, "spec", None) or structure(model.net),
        "dials": [asdict(d) for d in model.method.dials()],
        "dial_map": asdict(model.dial_map) if model.dial_map is not None else None,
    }


def structure(module: nn.Module) -> str:
    """A module as it prints itself, without the addresses in memory that differ in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module))


def digest_of_model(model: Tunable) -> str:
    """The hash of a model in memory: that of the file it would be saved to, whether or not it can be saved."""
    return digest_of_parts(decisive(model), model.stored())


def digest_of_parts(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The hash of a description and its tensors, 16 hex digits."""
    return _hashed(as_json(description).encode(), tensors)[:16]


def as_json(description: Mapping[str, Any]) -> str:
    """A description as text that does not depend on the order of its keys."""
    return json.dumps(description, sort_keys=True, default=repr)


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors: what a file says of its weights, and what loading compares."""
    return _hashed(b"", tensors)


def _hashed(before: bytes, tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256(before)
    for name in sorted(tensors):
        sha.update(tensor_bytes(name, tensors[name]))
    return sha.hexdigest()


def tensor_bytes(name: str, tensor: Tensor) -> bytes:
    """What hashes take of a named tensor: its name, shape, type and values."""
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    head = f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode()
    return head + plain.numpy().tobytes()
