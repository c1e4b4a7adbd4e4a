"""Channel-structured sparsity: masks drop whole channels inside blocks and leave the residual stream dense.

The mask is on the convolution that reads a channel, so that training sees a gradient for dropped channels too (their
makers keep running in training passes). In all other passes the makers' filters and the norm's scale and shift are
masked as well: a dropped channel is exactly 0, needs no weights, and can be cut out of the network. Channels are
dropped and regrown by the rule of `nn.rewiring`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rheostat.nets.base import Block, Inner, Net
from rheostat.nn.layers import Parts, Seat, Transform, append
from rheostat.nn.masking import ChannelPath, Masking, places
from rheostat.nn.norms import Modulation
from rheostat.points.resolved import Resolved

STRUCTURES = ("unstructured", "channel")


class Cut(Transform):
    """A part of a maker: outside training it sets the filters of dropped channels to 0."""

    order = 20

    def __init__(self, reader: Masking) -> None:
        super().__init__()
        self._reader = (reader,)  # in a tuple: it is the reader's part, not ours

    def mask(self, at: Resolved) -> Tensor:
        path = self._reader[0].chosen(at)
        return path.mask[0, :, 0, 0].reshape(-1, 1, 1, 1)

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        if at.training:
            return parts
        keep = self.mask(at)
        return tuple((w * keep, amount) for w, amount in parts)


class Gate(Modulation):
    """A part of a norm: outside training it sets scale and shift of dropped channels to 0, so no ReLU(β) remains."""

    def __init__(self, reader: Masking) -> None:
        super().__init__()
        self._reader = (reader,)

    def forward(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        if at.training:
            return scale, shift
        keep = self._reader[0].chosen(at).mask[0, : scale.shape[1], 0, 0]
        return scale * keep, shift * keep


def groups_of(net: Net, who: str, blocks: Iterable[nn.Module] | None = None) -> list[Inner]:
    """The channel groups inside a network's blocks (all of them, or `blocks`); ValueError if there are none."""
    chosen = net.blocks if blocks is None else blocks
    found = [group for block in chosen if isinstance(block, Block) for group in block.inner()]
    if not found:
        raise ValueError(
            f"{who}: structure 'channel' needs blocks with inner channels, outside the residual "
            "stream; this network has none"
        )
    return found


def random_channels(group: Inner, density: float, *, without: Tensor | None = None, least: int = 2) -> Tensor:
    """A mask on the reader's weight: round(density·C) random channels, at least two."""
    weight = group.reader.weight
    channels = weight.shape[1]
    other = None if without is None else without[0, :, 0, 0]
    order = torch.randperm(channels)
    if other is not None:
        order = order[other[order] == 0]
    keep = torch.zeros(channels)
    keep[order[: places(channels, density, without=other, least=least)]] = 1
    return keep[None, :, None, None].expand(weight.shape).clone()


def largest_channels(group: Inner, density: float, *, without: Tensor | None = None, least: int = 2) -> Tensor:
    """A mask on the reader's weight: the round(density·C) channels that it reads with the largest weights."""
    weight = group.reader.weight
    size = weight.detach().abs().mean((0, 2, 3))
    other = None if without is None else without[0, :, 0, 0]
    if other is not None:
        size = size.masked_fill(other != 0, -1.0)
    keep = torch.zeros(len(size))
    keep[size.topk(places(len(size), density, without=other, least=least)).indices] = 1
    return keep[None, :, None, None].expand(weight.shape).clone()


def install(group: Inner, masks: list[Tensor], *, dense_gradient: bool = False) -> None:
    """Give a group's reader its mask paths, and give its makers and norms the parts that follow those masks."""
    if any(getattr(t, "dense", False) for t in group.reader.transforms):
        raise ValueError("dropped channels take no noise; use noise with under_masks=False for unstructured masks only")
    masking = Masking([ChannelPath(group.reader.weight, mask, dense_gradient=dense_gradient) for mask in masks])
    append(group.reader, masking)
    for maker in group.makers:
        append(maker, Cut(masking))
    for norm in group.norms:
        norm.modulations.append(Gate(masking))


@torch.no_grad()
def clear(groups: list[Inner]) -> None:
    """After training, set the weights to 0 that dropped channels kept only for regrowth."""
    for group in groups:
        masking = next(t for t in group.reader.transforms if isinstance(t, Masking))
        union = masking.union()
        group.reader.weight.mul_(union)
        keep = union[0, :, 0, 0]
        for maker in group.makers:
            maker.weight.mul_(keep[:, None, None, None])
        for norm in group.norms:
            for name, parameter in norm.source.named_parameters():
                if name.rpartition(".")[2] in ("weight", "bias"):
                    parameter.mul_(keep[: len(parameter)])
