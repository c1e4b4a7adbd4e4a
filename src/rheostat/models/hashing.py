"""Hashes of models: of named tensors, and of all that decides a model's outputs, which rows name a model by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.models.tunable import Tunable

DECISIVE = ("composition", "net", "dials", "dial_map")
"""The keys of a description that decide the outputs of a model, beside its tensors."""


def decisive(model: Tunable) -> dict[str, Any]:
    """The part of a model's description under the keys `DECISIVE`.

    A network without a spec, which no file can hold, is described by its structure.
    """
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
    return digest_of(decisive(model), model.stored())


def digest_of(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The hash of a description and its tensors, 16 hex digits."""
    return _hashed(json.dumps(description, sort_keys=True, default=repr).encode(), tensors)[:16]


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
