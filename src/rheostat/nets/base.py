"""The structure of every network: a normalisation layer, blocks that yield features, a classifier.

A network is written once, over seats, and is independent of all methods. Its forward is a loop over blocks that
yields features, so exits need no support from it. `spec` holds the arguments that rebuild it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.nn.layers import Conv, Dense, Dropout, Normalise, Seat, normed, weighted
from rheostat.nn.layouts import pooled
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import nearest
from rheostat.runtime.plain import plain
from rheostat.runtime.registry import Registry, origin_of
from rheostat.runtime.typed import check_types

if TYPE_CHECKING:
    from rheostat.nets.pieces import Features, Head

P = ParamSpec("P")
Activation = Callable[[Tensor], Tensor]
"""A function of each number of a tensor alone, with f(0) = 0, so that a channel set to 0 stays 0."""
Spec = dict[str, object]


@dataclass(frozen=True)
class Inner:
    """Channels inside a block, outside the residual stream, with the layers that make, normalise and read them.

    `makers` output the channels (a depthwise convolution passes them on); only `reader` reads them.
    """

    makers: tuple[Conv, ...]
    norms: tuple[Norm, ...]
    reader: Conv


class Block(nn.Module):
    """A piece of a network between two features: `block(x, at) -> x`."""

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no forward")

    def inner(self) -> list[Inner]:
        """The groups of channels that are internal to this block."""
        return []


class ConvBlock(Block):
    """Convolution, optional norm, optional activation, optional 2×2 max-pooling: stems and layers of small_cnn."""

    def __init__(
        self, conv: Conv, norm: Norm | None, *, activation: Activation | None = F.relu_, pool: bool = False
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.activation, self.pool = conv, norm, activation, pool

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        x = self.conv(x, at) if self.norm is None else normed(self.conv, self.norm, x, at)
        if self.activation is not None:
            x = self.activation(x)
        return F.max_pool2d(x, 2) if self.pool else x


class Classifier(nn.Module):
    """Global average pooling (after a last norm and ReLU, if any) and one Dense layer."""

    def __init__(self, channels: int, classes: int, *, norm: Norm | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.dense = Dense(channels, classes, head=True)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        if self.norm is not None:
            x = F.relu_(self.norm(x, at))
        return self.dense(pooled(x), at)


class FlatClassifier(nn.Module):
    """Flattened features through fully connected layers: dropout after the first, ReLU between
    (unless `relu` is False)."""

    def __init__(
        self, features: int, hidden: tuple[int, ...], classes: int, *, dropout: float = 0.5, relu: bool = True
    ) -> None:
        super().__init__()
        sizes = (features, *hidden, classes)
        self.layers = nn.ModuleList(
            Dense(a, b, head=i == len(hidden)) for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.dropout, self.relu = Dropout(dropout), relu
        last = self.layers[-1]
        assert isinstance(last, Dense)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        """(B, C, H, W) → (B, classes)."""
        x = x.flatten(1)
        for i, layer in enumerate(self.layers):
            x = layer(x, at)
            if self.relu and i < len(self.layers) - 1:
                x = F.relu_(x)
            if i == 0:
                x = self.dropout(x, at)
        return x


class Net(nn.Module):
    """A network over seats; called as `net(x, at)` with pixels in [0, 1]."""

    spec: Spec
    layout: torch.memory_format = torch.contiguous_format
    conditioned_by: str = ""
    """The repr of the composition that was installed; a network takes only one."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        classifier: nn.Module,
        *,
        image: tuple[int, int, int],
        classes: int,
        normalise: Normalise,
        stages: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier
        self.image, self.classes = image, classes
        self.stages = stages
        """The number of blocks of each stage, the stem first."""
        self.exit_positions: tuple[int, ...] | None = None
        """The blocks that exits follow by default, if this network defines them."""

    def to_layout(self, layout: torch.memory_format) -> None:
        """Choose the memory layout of weights and activations: channels-last or contiguous."""
        for module in self.modules():
            if isinstance(module, Net):
                module.layout = layout
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def enter(self, x: Tensor) -> Tensor:
        """The input of the first block: normalised pixels in the network's memory layout."""
        return laid_out(self.normalise(x), self.layout)

    def features(self, x: Tensor, at: Resolved) -> Iterator[Tensor]:
        """Yield the feature map after each block; later blocks run only when asked for."""
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, at)
            yield x

    def forward(self, x: Tensor, at: Resolved) -> Tensor:
        """(B, C, H, W) pixels → (B, classes) logits."""
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, at)
        logits: Tensor = self.classifier(x, at)
        return logits.float()


def first_stages(net: Net, count: int, what: str) -> set[Seat]:
    """The conditioned seats of the first `count` stages (the stem is the first); ValueError if those are all stages."""
    if count and count >= len(net.stages):
        raise ValueError(f"{what} must be below the {len(net.stages)} stages of this network, given {count}")
    return {conv for block in net.blocks[: sum(net.stages[:count])] for conv in weighted(block)}


def laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """The same values in a memory layout.

    A tensor with one channel has both layouts at once, so `to` leaves it unchanged. The first convolution would then
    return the contiguous layout, and every operator that combines both layouts would be slow.
    """
    if layout is torch.channels_last and x.shape[1] == 1:
        return x.reshape(x.shape[0], x.shape[2], x.shape[3], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=layout)


Builder = Callable[..., "Net"]


@dataclass(frozen=True)
class Architecture:
    """A registered network: its builder and its exits.

    `exit_positions` gives the blocks that exits follow by default; `paper_head` gives an exit's layers from the
    features after its block and its number (from 0). None means the default rule of `nets.heads`. `preactivated`
    says that features are not yet activated, so that every head starts with a norm and a ReLU.
    """

    build: Builder
    exit_positions: Callable[[Net], tuple[int, ...]] | None = None
    paper_head: Callable[[Net, Features, int], Head] | None = None
    preactivated: bool = False


NETS: Registry[Architecture] = Registry("network", group="rheostat.nets")


def register(
    *,
    exit_positions: Callable[[Net], tuple[int, ...]] | None = None,
    paper_head: Callable[[Net, Features, int], Head] | None = None,
    preactivated: bool = False,
) -> Callable[[Callable[P, Net]], Callable[P, Net]]:
    """Register a network builder under its name (see `Architecture`); the built net keeps its arguments in `spec`.

    Numbers and arrays of NumPy and torch are plain values there, so that a file can hold them.
    """

    def entered(build: Callable[P, Net]) -> Callable[P, Net]:
        @functools.wraps(build)
        def remembered(*args: P.args, **kwargs: P.kwargs) -> Net:
            bound = inspect.signature(build).bind(*args, **kwargs)
            bound.apply_defaults()
            bound.arguments = {option: plain(value) for option, value in bound.arguments.items()}
            net = build(*bound.args, **bound.kwargs)
            net.spec = {"name": build.__name__, **bound.arguments}
            return net

        NETS.register(
            build.__name__, Architecture(remembered, exit_positions, paper_head, preactivated), origin=origin_of(build)
        )
        return remembered

    return entered


def check_size(net: str, **sizes: float) -> None:
    """ValueError that names the network and the option unless every given size is positive."""
    for option, given in sizes.items():
        if given <= 0:
            raise ValueError(f"{net}: {option} must be positive, given {given}")


def check_image(net: str, image: tuple[int, int, int], least: int) -> tuple[int, int, int]:
    """The image shape (C, H, W); ValueError that names the network and the smallest size if the image is invalid."""
    shape = tuple(image)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{net}: image must be (1 or 3, height, width), given {shape}")
    if min(shape[1:]) < least:
        raise ValueError(f"{net} needs images of at least {least}×{least} pixels, given {shape[1]}×{shape[2]}")
    return shape[0], shape[1], shape[2]


def normaliser(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalise:
    """The normalisation layer of a net: the data set's mean and std, or 0.5 and 0.25."""
    for name, given in (("mean", mean), ("std", std)):
        if isinstance(given, Real):
            raise ValueError(f"mean and std need one value per channel ({channels}), given {name}={given}")
    chosen_mean = tuple(mean) if mean is not None else (0.5,) * channels
    chosen_std = tuple(std) if std is not None else (0.25,) * channels
    if len(chosen_mean) != channels or len(chosen_std) != channels:
        raise ValueError(
            f"mean and std need one value per channel ({channels}), given {len(chosen_mean)} and {len(chosen_std)}"
        )
    if not all(isinstance(v, Real | Tensor) and math.isfinite(v) for v in (*chosen_mean, *chosen_std)):
        raise ValueError(f"mean and std must be finite numbers, given {chosen_mean} and {chosen_std}")
    if any(s <= 0 for s in chosen_std):
        raise ValueError(f"std must be positive, given {chosen_std}")
    return Normalise(chosen_mean, chosen_std)


def build(spec: Spec) -> Net:
    """Build a network from its spec, `{"name": "resnet", "depth": 20, ...}`; ValueError for an unknown name or key."""
    options = dict(spec)
    name = str(options.pop("name", ""))
    builder = NETS.get(name).build
    known = inspect.signature(builder).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    check_types(name, builder, options)
    return builder(**options)
