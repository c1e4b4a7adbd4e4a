"""FLOPs of a call: convolutions and matrix products, forward and backward. A multiplication with its addition is two.

`torch.utils.flop_counter.FlopCounterMode` has the formulas. It cannot be used itself, because it follows modules, and
fails where a gradient is taken with respect to the input of a module, as every attack does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """The FLOPs of every operation that has a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.convolution_backward and args[9] != 1:
            raise ValueError("the formula for gradients of grouped convolutions counts each group's weights as a whole")
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(call: Callable[[], object]) -> int:
    """FLOPs of one call. Norms, activations and the optimiser's arithmetic do not count."""
    with _Counter() as counter:
        call()
    return counter.total
