"""Judged in full fp32: what is measured, selected or calibrated does not depend on fast modes of a device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import torch

SETTINGS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
"""Parts of `torch.backends` whose `fp32_precision` may round the factors of a product."""
_lock = threading.Lock()
_inside = 0
_restore: list[tuple[Any, str]] = []
_older: list[Callable[[], None]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """A scope in which products of fp32 tensors are of fp32: no autocast, no TF32, no bf16 inside kernels.

    Autocast is this thread's own. The other settings are the whole process's: several threads may be
    inside at once, and the last one to leave restores them. Also a decorator: `@full_precision()`.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        _enter()
        stack.callback(_leave)
        yield


def _settings() -> list[Any]:
    return [attrgetter(name)(torch.backends) for name in SETTINGS]


def _enter() -> None:
    global _inside
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        _restore[:] = [(setting, setting.fp32_precision) for setting in _settings()]
        _older[:] = [_older_matmul(), _older_cudnn()]
        # Both interfaces are set, so that they agree: a disagreement is an error inside torch.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for setting in _settings():
            setting.fp32_precision = "ieee"


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside:
            return
        # The older interface first: it writes what belongs to the newer one too.
        for restore in _older:
            restore()
        for setting, before in _restore:
            setting.fp32_precision = before


def _older_matmul() -> Callable[[], None]:
    """What restores the older setting of products: it cannot be read, and is its default, beside a newer one."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        before = "highest"
    return lambda: torch.set_float32_matmul_precision(before)


def _older_cudnn() -> Callable[[], None]:
    """The same for convolutions."""
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        before = True

    def restore() -> None:
        torch.backends.cudnn.allow_tf32 = before

    return restore
