"""Operations on feature maps whose gradients keep the memory layout of the features.

The gradients of `x.mean((2, 3))` and of a slice are contiguous whatever the layout of x. The layer before would then
combine two layouts, which on a CPU takes up to 16 times as long. The operations here give the same bits.
"""

from __future__ import annotations

from torch import Tensor, fx


def pooled(x: Tensor) -> Tensor:
    """The mean over all positions, (B, C, H, W) → (B, C)."""
    return x.permute(0, 2, 3, 1).mean((1, 2)) if _channels_last(x) else x.mean((2, 3))


def strided(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Every `stride`-th row and column of x (B, C, H, W), a view."""
    if _channels_last(x):
        return x.permute(0, 2, 3, 1)[:, :: stride[0], :: stride[1]].permute(0, 3, 1, 2)
    return x[:, :, :: stride[0], :: stride[1]]


def _channels_last(x: Tensor) -> bool:
    """Whether x has a gradient and neighbouring channels; a graph that torch.fx traces is for inference.

    `is_contiguous` of a layout cannot be asked under `torch.func.vmap`.
    """
    return not isinstance(x, fx.Proxy) and x.requires_grad and x.stride(1) == 1
