"""Seats with weights, Conv and Dense, and the other layers, Normalise and Dropout.

A seat is a layer that methods can condition. It is called as `seat(x, at)` with `at` a `Resolved` point. Methods never
subclass a seat: they add parts to it. A `Conv` or `Dense` holds a chain of weight transforms. The Norm seat is in
`norms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from rheostat.nn.affine import affine_map, in_half
from rheostat.nn.layouts import strided
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved

Size = int | tuple[int, int]
Parts = tuple[tuple[Tensor, Tensor | None], ...]
"""A kernel as a weighted sum: tensors, each with a factor per setting (S,), or None for the factor 1."""
Affine = tuple[Tensor, Tensor]
"""Scale and shift of each channel, (1, C) each; of a kernel, its weight and bias."""


class Transform(nn.Module):
    """A part of a Conv or Dense seat that transforms the seat's kernel before the product.

    `order` sets its position in the chain, independent of the order of installation: noise 10, masks 20, slices 30.
    """

    order: int = 0

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        raise TypeError(f"{type(self).__name__} does not say how it transforms a kernel")

    def draws(self, at: Resolved) -> bool:
        """Whether this transform draws a new random kernel in each pass at this point."""
        return False

    def mask(self, at: Resolved) -> Tensor | None:
        """The 0/1 mask of the weights that this pass uses, broadcastable to the seat's weight; None if it uses all."""
        return None


def append(seat: Seat, transform: Transform) -> None:
    """Insert a transform into a seat's chain at the position given by its `order`."""
    chain = sorted([*seat.transforms, transform], key=lambda t: getattr(t, "order", 0))
    seat.transforms = nn.ModuleList(chain)


def kernel(seat: Seat, x: Tensor, at: Resolved) -> Parts:
    """The kernel of a seat after its chain of transforms; computed once per attack unless it is random."""

    def compute() -> Parts:
        parts: Parts = ((seat.weight, None),)
        for transform in seat.transforms:
            parts = transform(parts, seat, x, at)
        return parts

    return compute() if draws(seat, at) else at.once(seat, compute)


def draws(seat: Seat, at: Resolved) -> bool:
    """Whether a seat's kernel is random at this point: drawn again in each pass."""
    return any(isinstance(t, Transform) and t.draws(at) for t in seat.transforms)


def _summed(parts: Parts, product: Callable[[Tensor], Tensor], at: Resolved) -> Tensor:
    total: Tensor | None = None
    for weight, amount in parts:
        term = product(weight)
        if amount is not None:
            rows = at.gather(amount)
            term = term * rows.reshape(-1, *[1] * (term.ndim - 1)).to(term.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total


class Conv(nn.Module):
    """Convolution seat with the weights, initialisation and geometry of `nn.Conv2d`, called with a point.

    `exact` computes it in fp32 under autocast (used for the first layer, whose input contains δ) and rounds only the
    output, so that the layers after it read and write half precision as everywhere else.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        exact: bool = False,
    ) -> None:
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias=bias)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.weight, self.bias = plain.weight, plain.bias
        self.exact = exact
        self.transforms = nn.ModuleList()

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"

    def forward(self, x: Tensor, at: Resolved, affine: Affine | None = None) -> Tensor:
        """(B, C, H, W) → (B, C', H', W'). The input may have fewer channels than the seat (slimming).

        `affine`, the same for all rows, maps the output; it becomes part of the kernel (see `normed`).
        """
        if self.exact and not x.is_meta and torch.is_autocast_enabled(x.device.type):
            low = torch.get_autocast_dtype(x.device.type)
            with torch.autocast(x.device.type, enabled=False):
                return self._product(x.float(), at, affine).to(low)
        return self._product(x, at, affine)

    def _product(self, x: Tensor, at: Resolved, affine: Affine | None) -> Tensor:
        parts: Parts = kernel(self, x, at) if self.transforms else ((self.weight, None),)
        groups = self.groups if self.groups == 1 else x.shape[1] * self.groups // self.in_channels

        stride = self.stride
        if self._overruns(x):
            x, stride = strided(x, stride), (1, 1)

        def product(weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.conv2d(x, weight, bias, stride, self.padding, self.dilation, groups)

        first, amount = parts[0]
        bias = None if self.bias is None else self.bias[: first.shape[0]]
        if len(parts) == 1 and amount is None:
            if affine is not None:
                return product(*self._merged(first, bias, affine, at, x))
            out = product(first, bias)
        else:
            out = _summed(parts, product, at)
            out = out if bias is None else out + bias[:, None, None]
        return out if affine is None else affine_map(out, *affine)

    def _merged(self, weight: Tensor, bias: Tensor | None, affine: Affine, at: Resolved, x: Tensor) -> Affine:
        """Kernel and bias with the affine map, in the dtype of x if that is half precision."""

        def compute() -> Affine:
            scale, shift = affine[0][0], affine[1][0]
            found = weight * scale[:, None, None, None], shift if bias is None else torch.addcmul(shift, bias, scale)
            return (found[0].to(x.dtype), found[1].to(x.dtype)) if in_half(x) else found

        # A convolution may be called before several norms; each keeps its own table for as long as the memo lives.
        what = f"merged, {id(affine[0])}, {x.dtype}"
        return compute() if draws(self, at) else at.once(self, compute, what=what)

    def _overruns(self, x: Tensor) -> bool:
        """Whether the CPU's gradient of this kernel would write past its workspace.

        oneDNN issue 6035: with a strided 1×1 kernel, channels-last layout and fewer than 16 input channels, several
        threads corrupt memory or hang. Slicing the input and using stride 1 gives the same numbers.
        """
        return (
            self.kernel_size == (1, 1)
            and self.stride != (1, 1)
            and self.padding == (0, 0)
            and x.shape[1] < 16
            and x.device.type == "cpu"
            and torch.is_grad_enabled()
        )


def normed(conv: Conv, norm: Norm, x: Tensor, at: Resolved) -> Tensor:
    """norm(conv(x)): (B, C, H, W) → (B, C', H', W').

    The passes of an attack share their weights. There the affine map of a norm becomes part of the kernel, once for all
    passes, if the pass has one setting: this saves reading and writing the features for each norm, forward and
    backward. Forward hooks of such a norm do not run in an attack; those of its convolution see normalised features.
    """
    plain = type(norm).forward is Norm.forward and type(conv).forward is Conv.forward
    if isinstance(at, fx.Proxy):  # torch.fx traces an adopted network when it is unpickled
        return norm(conv(x, at), at)
    if plain and at.memo is not None and not at.training:
        affine = norm.settings(at)
        if affine[0].shape[0] == 1:
            return conv(x, at, affine)
    return norm(conv(x, at), at)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class Dense(nn.Module):
    """Fully connected seat, with the weights and initialisation of `nn.Linear`.

    `head` marks the last layer, whose outputs are the logits. `conditioned` marks a layer whose weights methods
    condition like those of convolutions (noise, masks): the layers of a transformer, not the classifier of a
    convolutional network.
    """

    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, head: bool = False, conditioned: bool = False
    ) -> None:
        super().__init__()
        plain = nn.Linear(in_features, out_features, bias=bias)
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.head, self.conditioned = head, conditioned
        self.transforms = nn.ModuleList()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        """(B, ..., F) → (B, ..., F')."""
        if not self.transforms:
            return F.linear(x, self.weight, self.bias)
        out = _summed(kernel(self, x, at), lambda w: F.linear(x, w), at)
        return out if self.bias is None else out + self.bias[: out.shape[-1]]


class Normalise(nn.Module):
    """Normalises pixels in [0, 1] to zero mean and unit standard deviation per channel, in fp32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Dropout(nn.Module):
    """Dropout that depends on the pass (`at.training`), not on module state. It draws from torch's global generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate must be in [0, 1), given {rate}")
        self.rate = rate

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        return F.dropout(x, self.rate, at.training) if self.rate else x


Seat = Conv | Dense
S = TypeVar("S", bound=nn.Module)


def seats(net: nn.Module, kind: type[S]) -> Iterator[S]:
    """The seats of one kind, in network order."""
    return (module for module in net.modules() if isinstance(module, kind))


def weighted(net: nn.Module) -> Iterator[Seat]:
    """The seats whose weights methods condition, in network order: every Conv, and each Dense with `conditioned`."""
    return (m for m in net.modules() if isinstance(m, Conv) or (isinstance(m, Dense) and m.conditioned))
