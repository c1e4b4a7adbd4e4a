"""Random streams by name: a stream depends on the seed and its name only, never on what ran before.

So a resumed run needs no generator state, ranks agree without talking, and chunks can be evaluated
in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*names: object) -> int:
    """A 63-bit seed from names: numbers, texts."""
    text = "\x1f".join(repr(n) for n in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*names: object) -> torch.Generator:
    """A CPU generator for the stream of these names."""
    return torch.Generator().manual_seed(seed_of(*names))


@contextmanager
def preserved(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators afterwards: the CPU's, and that of the CUDA device in use."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of the device in use; no other device's is touched."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
