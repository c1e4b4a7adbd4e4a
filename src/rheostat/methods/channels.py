"""Channel-structured sparsity: whole channels inside blocks are left out; the residual stream stays.

The mask lies on the convolution that reads a channel, so that training sees, at channels left out, what
reading them would be worth (their makers keep running in training passes). Everywhere else the makers'
filters and the norm's scale and shift are masked too: a channel left out is exactly 0, costs no weight,
and can be cut out of the network. Source of the rule: METHODS 4; the units here are channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rheostat.nets.base import Block, Inner, Net
from rheostat.nn.layers import Parts, Seat, Transform, append
from rheostat.nn.masking import ChannelPath, Masking
from rheostat.nn.norms import Modulation
from rheostat.points.resolved import Resolved

STRUCTURES = ("unstructured", "channel")


class Cut(Transform):
    """On a maker: outside training its filters of channels left out are 0."""

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
    """On a norm: outside training scale and shift of channels left out are 0, else ReLU(β) remains."""

    def __init__(self, reader: Masking) -> None:
        super().__init__()
        self._reader = (reader,)

    def forward(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        if at.training:
            return scale, shift
        keep = self._reader[0].chosen(at).mask[0, : scale.shape[1], 0, 0]
        return scale * keep, shift * keep


def groups_of(net: Net, who: str, blocks: Iterable[nn.Module] | None = None) -> list[Inner]:
    """The channels inside the blocks of a network (or some of them); ValueError if it has none."""
    chosen = net.blocks if blocks is None else blocks
    found = [group for block in chosen if isinstance(block, Block) for group in block.inner()]
    if not found:
        raise ValueError(
            f"{who}: structure 'channel' needs blocks with channels of their own, off the residual "
            "stream; this network has none"
        )
    return found


def random_channels(group: Inner, density: float, *, without: Tensor | None = None, least: int = 2) -> Tensor:
    """A mask on the reader's weight: round(density·C) random channels, at least two."""
    weight = group.reader.weight
    channels = weight.shape[1]
    order = torch.randperm(channels)
    if without is not None:
        order = order[without[0, :, 0, 0][order] == 0]
    keep = torch.zeros(channels)
    keep[order[: max(round(density * channels), least)]] = 1
    return keep[None, :, None, None].expand(weight.shape).clone()


def largest_channels(group: Inner, density: float, *, without: Tensor | None = None, least: int = 2) -> Tensor:
    """A mask on the reader's weight: the round(density·C) channels that it reads by the largest weights."""
    weight = group.reader.weight
    size = weight.detach().abs().mean((0, 2, 3))
    if without is not None:
        size = size.masked_fill(without[0, :, 0, 0] != 0, -1.0)
    keep = torch.zeros(len(size))
    keep[size.topk(max(round(density * len(size)), least)).indices] = 1
    return keep[None, :, None, None].expand(weight.shape).clone()


def install(group: Inner, masks: list[Tensor], *, dense_gradient: bool = False) -> None:
    """Give a group's reader its paths, and its makers and norms the parts that follow them."""
    if any(getattr(t, "dense", False) for t in group.reader.transforms):
        raise ValueError("channels that are left out take no noise; noise with under_masks=False is for single weights")
    masking = Masking([ChannelPath(group.reader.weight, mask, dense_gradient=dense_gradient) for mask in masks])
    append(group.reader, masking)
    for maker in group.makers:
        append(maker, Cut(masking))
    for norm in group.norms:
        norm.modulations.append(Gate(masking))


@torch.no_grad()
def clear(groups: list[Inner]) -> None:
    """After training: what channels kept for regrowth alone still store becomes 0."""
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
