"""Random streams by name: a stream depends only on the seed and its name, never on earlier computation.

A resumed run therefore needs no generator state, ranks agree without communication, and chunks can be evaluated in
any order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*names: object) -> int:
    """A 63-bit seed from names (numbers or texts)."""
    text = "\x1f".join(repr(n) for n in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*names: object) -> torch.Generator:
    """A CPU generator for the stream with these names."""
    return torch.Generator().manual_seed(seed_of(*names))


@contextmanager
def preserved(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators at the end: the CPU's, and that of the CUDA device in use."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of the device in use, and of no other device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and restore them at the end."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    with preserved(torch.device("cpu")):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002
