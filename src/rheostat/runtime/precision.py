"""Judged in full fp32: what is measured, selected or calibrated does not depend on fast modes of a device.

Made in bf16 where that pays: training and the gradients of attacks take the precision that the chip multiplies.
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
"""Precisions that may be asked for."""
Precision = Literal["fp32", "bf16"]
"""Precisions that work is done in."""
_lock = threading.Lock()
_inside = 0
_restore: list[tuple[Any, str]] = []
_older: list[Callable[[], None]] = []


def native_bf16(device: torch.device) -> bool:
    """Whether a chip multiplies bf16 itself: a CPU with AMX or AVX-512 for bf16, CUDA of compute capability 8 or more.

    Elsewhere torch imitates bf16, which is slower than fp32. A torch that cannot say what the CPU has counts as no.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def resolved(asked: Asked, device: torch.device) -> Precision:
    """The precision that is meant: "auto" is bf16 where the chip multiplies it itself, else fp32."""
    if asked == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return asked


def low_precision(device: torch.device) -> AbstractContextManager[object]:
    """A scope in which products are of bf16.

    Without autocast's cache: that one keeps the cast weights until the scope ends, past steps of an optimiser, and
    passes would go on with the weights of the first.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


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
