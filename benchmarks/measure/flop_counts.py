"""FLOPs of a call: two for each multiplication and addition of convolutions and matrix products, backward ones too."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def flops(call: Callable[[], object]) -> int:
    """FLOPs of one call. Norms, activations and the optimiser's arithmetic do not count."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
