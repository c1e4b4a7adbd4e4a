"""Affine maps of feature maps, one for the batch or one for each row, and batch norm followed by one for each row.

They return the dtype of the features, without a copy of half-precision features in fp32. Statistics and the shared map
are computed in fp32 or wider; maps of single rows, and sums over pixels, round their results to half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LANES = 32
"""Numbers in half precision that a vector register of 512 bits holds."""


def in_half(x: Tensor) -> bool:
    """Whether x is in half precision."""
    return x.dtype in (torch.bfloat16, torch.float16)


def widened(x: Tensor) -> Tensor:
    """x in fp32 if it is in half precision, because norms compute in fp32 or wider."""
    return x.float() if in_half(x) else x


def affine_map(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x·scale + shift per channel in the dtype of x; scale and shift are (1, C), or (B, C) if the rows differ.

    In half precision, one scale and shift go through batch norm's kernel, which reads and writes half precision and
    computes in fp32. With one for each row they are rounded to half precision, as x was. Where a channel's mean is much
    larger than its deviation, this rounding is a large error; only gradients of attacks see it, as judgements are fp32.
    """
    if not in_half(x):
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])
    if scale.shape[0] != 1:
        return row_affine(x, scale, shift)
    mean, var = torch.zeros_like(scale[0]), torch.ones_like(scale[0])
    return F.batch_norm(x, mean, var, scale[0], shift[0], False, 0.0, 0.0)


@torch.no_grad()
def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x·scale + shift in the dtype of x; scale is (B, C), shift is too or is as large as x. No gradients."""
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    pixels = _together(x)
    if pixels == 1 or len(x) == 0:
        return torch.addcmul(shift if shift.ndim == 4 else shift[:, :, None, None], x, scale[:, :, None, None])

    def flat(t: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H·W / pixels, pixels·C), a view."""
        return t.permute(0, 2, 3, 1).reshape(t.shape[0], -1, pixels * t.shape[1])

    out = torch.empty_like(x)
    first = flat(shift) if shift.ndim == 4 else shift.repeat(1, pixels)[:, None]
    torch.addcmul(first, flat(x), scale.repeat(1, pixels)[:, None], out=flat(out))
    return out


def _together(x: Tensor) -> int:
    """How many neighbouring pixels to treat as one with as many times the channels.

    With channels last, the kernel's inner loop is over channels. In half precision it does not vectorise below `LANES`
    of them, and is then ten times slower.
    """
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    if (
        not in_half(x)
        or channels >= LANES
        or LANES % channels
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return 1
    return LANES // channels if pixels % (LANES // channels) == 0 else 1


def _over_pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C) sums over pixels. The kernel adds half precision in fp32; asked for fp32, it would first copy x."""
    return x.sum((2, 3)).to(dtype)


class RowAffine(torch.autograd.Function):
    """x·scale + shift with (B, C) scale and shift, for x in half precision. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, scale)
        return scaled(x, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        out = scaled(grad, scale, torch.zeros_like(scale)) if ctx.needs_input_grad[0] else None
        along = None if x is None else _over_pixels(grad * x, scale.dtype)
        return out, along, _over_pixels(grad, scale.dtype) if ctx.needs_input_grad[2] else None


row_affine: Callable[[Tensor, Tensor, Tensor], Tensor] = RowAffine.apply


class RowNorm(torch.autograd.Function):
    """Batch normalisation followed by an affine map with one scale and shift per row and channel.

    It computes `batch_norm(x) * scale + shift` with about half the passes over memory: the backward pass needs only
    two sums over the pixels of each row, Σg and Σg·x̂. For x in half precision, statistics are in fp32; normalised
    features, scale, shift and both sums are rounded, as a convolution rounds its weights. First derivatives only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        unit, zero = torch.ones_like(running_var), torch.zeros_like(running_mean)  # half precision needs both
        normal, _, inverse = torch.native_batch_norm(x, unit, zero, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(normal, scale, inverse)
        return scaled(normal, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, scale, inverse = ctx.saved_tensors
        n = grad.numel() / grad.shape[1]
        total = _over_pixels(grad, scale.dtype)
        along = _over_pixels(grad * normal, scale.dtype)
        # Gradient of the normalisation: subtract the mean of the gradient and its component along x̂.
        mean = -(scale * total).sum(0, keepdim=True) / n * inverse
        slope = -(scale * along).sum(0, keepdim=True) / n * inverse
        return scaled(grad, scale * inverse, affine_map(normal, slope, mean)), along, total, None, None, None, None


row_norm: Callable[..., Tensor] = RowNorm.apply
