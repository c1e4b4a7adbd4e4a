"""Numerical precision: full fp32 for measurement, selection and calibration, whatever fast modes the device has.

Training steps and attack gradients may run in bf16 on a chip that multiplies it natively.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from operator import attrgetter
from typing import Any, Literal

import torch

SETTINGS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
"""Parts of `torch.backends` whose `fp32_precision` may round the factors of a product."""
Asked = Literal["auto", "fp32", "bf16"]
"""Precisions that a setting may name."""
Precision = Literal["fp32", "bf16"]
"""Precisions that computations use."""
_lock = threading.Lock()
_inside = 0
_restore: list[tuple[Any, str]] = []
_older: list[Callable[[], None]] = []


def native_bf16(device: torch.device) -> bool:
    """Whether a chip multiplies bf16 natively: a CPU with AMX or AVX-512 BF16, CUDA of compute capability 8 or more.

    Elsewhere torch emulates bf16, which is slower than fp32. False if torch cannot report the CPU's capabilities.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def resolved(asked: Asked, device: torch.device) -> Precision:
    """The precision to use: "auto" becomes bf16 if the chip multiplies it natively, else fp32."""
    if asked == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return asked


def low_precision(device: torch.device) -> AbstractContextManager[object]:
    """A scope that computes products in bf16.

    It disables autocast's cache, which keeps the cast weights until the scope ends: after an optimiser step, passes
    would still use the old weights.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


@contextmanager
def full_precision() -> Iterator[None]:
    """A scope that computes products of fp32 tensors in fp32: no autocast, no TF32, no bf16 inside kernels.

    Autocast is a setting of the thread. The other settings belong to the whole process: several threads may be inside
    at once, and the last one to leave restores them. Also a decorator: `@full_precision()`.
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
        # Set both interfaces, because torch raises an error if they disagree.
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
        # Restore the older interface first, because it also changes settings of the newer one.
        for restore in _older:
            restore()
        for setting, before in _restore:
            setting.fp32_precision = before


def _older_matmul() -> Callable[[], None]:
    """A function that restores the older setting of products, or its default if a newer setting makes it unreadable."""
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
