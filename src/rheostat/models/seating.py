"""Turn the layers of a traced graph into seats, by their type or by the function that their forward calls.

Tracing goes into subclasses of norms and linear layers, so that a seat replaces only the norm or product itself: an
activation after a norm, permutations around it, or padding before a convolution stay in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.nn.feature_norms import GroupNorm, LayerNorm
from rheostat.nn.layers import Conv, Dense, Dropout
from rheostat.nn.norms import Norm, NormSet

M = TypeVar("M", bound=nn.Module)
SEATS = (Conv, Norm, Dense, Dropout)
FROZEN = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.instance_norm)
"""Functions whose training mode tracing would freeze."""
OWN_STATE = (
    *(nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.RNNBase, nn.AlphaDropout),
)
"""Layers that keep statistics, draw noise, or have no seat."""


def conv_of(name: str, layer: nn.Conv2d) -> Conv:
    """The seat of a convolution; padding other than zeros is applied before it."""
    padded = layer.padding_mode != "zeros"
    seat = Conv(
        layer.in_channels,
        layer.out_channels,
        kernel_size=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=0 if padded else padding_of(name, layer),
        dilation=_pair(layer.dilation),
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    seat.load_state_dict(layer.state_dict())
    return trained_alike(seat, layer.weight, layer.bias)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def padding_of(name: str, layer: nn.Conv2d) -> tuple[int, int]:
    """A convolution's padding as numbers; ValueError if "same" pads one side more than the other."""
    if not isinstance(layer.padding, str):
        return _pair(layer.padding)
    if layer.padding == "valid":
        return 0, 0
    total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError(f"layer {name!r}: padding 'same' is supported for odd kernels only, not for even ones")
    return total[0] // 2, total[1] // 2


def norm_of(name: str, layer: nn.BatchNorm2d) -> Norm:
    """The seat of a batch norm."""
    if layer.momentum is None or not layer.track_running_stats:
        raise ValueError(f"layer {name!r}: a BatchNorm2d needs a momentum and running statistics")
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return batch_norm(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.momentum, layer.eps)


def batch_norm(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, momentum: float, eps: float
) -> Norm:
    """A batch norm's seat from its tensors."""
    seat = Norm(mean.numel())
    source = NormSet(mean.numel(), eps=eps, momentum=momentum)
    with torch.no_grad():
        source.running_mean.copy_(mean)
        source.running_var.copy_(var)
    seat.source = source
    return _affine(seat, weight, bias)


def layer_norm_of(name: str, layer: nn.LayerNorm) -> LayerNorm:
    """The seat of a layer norm over the last dimension."""
    return layer_norm(name, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def layer_norm(name: str, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float) -> LayerNorm:
    """A layer norm's seat from its tensors; without tensors it starts with scale 1 and shift 0."""
    if len(shape) != 1:
        raise ValueError(f"layer {name!r} normalises over {len(shape)} dimensions; only the last one is supported")
    seat = LayerNorm(shape[0], eps=eps)
    _affine(seat, weight, bias)
    return seat


def group_norm_of(name: str, layer: nn.GroupNorm) -> GroupNorm:
    """The seat of a group norm."""
    return group_norm(layer.num_channels, layer.num_groups, layer.weight, layer.bias, layer.eps)


def group_norm(channels: int, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> GroupNorm:
    """A group norm's seat from its tensors."""
    seat = GroupNorm(channels, groups, eps=eps)
    _affine(seat, weight, bias)
    return seat


def _affine(seat: Norm, weight: Tensor | None, bias: Tensor | None) -> Norm:
    with torch.no_grad():
        for name, given in (("weight", weight), ("bias", bias)):
            if given is not None:
                seat.source.get_parameter(name).copy_(given)
    trained_alike(seat.source, weight, bias)
    return seat


def trained_alike(seat: M, weight: Tensor | None, bias: Tensor | None) -> M:
    """The seat; its parameters train exactly where those of the layer do."""
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None:  # a layer may store it as a buffer, which does not train
            seat.get_parameter(name).requires_grad_(isinstance(given, nn.Parameter) and given.requires_grad)
    return seat


def dense_of(name: str, layer: nn.Linear) -> Dense:
    """The seat of a linear layer."""
    return dense(layer.weight, layer.bias)


def dense(weight: Tensor, bias: Tensor | None) -> Dense:
    """A linear layer's seat from its tensors."""
    seat = Dense(weight.shape[1], weight.shape[0], bias=bias is not None, conditioned=True)
    with torch.no_grad():
        seat.weight.copy_(weight)
        if seat.bias is not None and bias is not None:
            seat.bias.copy_(bias)
    return trained_alike(seat, weight, bias)


def dropout_of(name: str, layer: nn.Dropout) -> Dropout:
    """The seat of a dropout."""
    return Dropout(layer.p)


LAYERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: conv_of,
    nn.BatchNorm2d: norm_of,
    nn.LayerNorm: layer_norm_of,
    nn.GroupNorm: group_norm_of,
    nn.Linear: dense_of,
    nn.Dropout: dropout_of,
}
"""Layers that become seats, by exact type."""
SIGNATURES: dict[Any, tuple[str, ...]] = {
    F.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.batch_norm: ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps"),
    F.layer_norm: ("input", "shape", "weight", "bias", "eps"),
    F.group_norm: ("input", "groups", "weight", "bias", "eps"),
    F.linear: ("input", "weight", "bias"),
}
"""Functional calls that become seats, with our names for their arguments."""
RENAMED = {"running_mean": "mean", "running_var": "var", "normalized_shape": "shape", "num_groups": "groups"}
