"""Exits of a network: their positions and heads.

The `paper` heads and positions are those of RDI-Nets (Hu et al., ICLR 2020, appendix), defined in each network's
file; a network that defines none uses those of residual networks. The first paper heads cost nearly as much as an
early exit saves. The `light` heads are ours: they pool first and have one convolution.
"""

from __future__ import annotations

import torch

from rheostat.nets.base import NETS, Architecture, Classifier, ConvBlock, Net
from rheostat.nets.pieces import Activate, Features, Head, Pool
from rheostat.nets.residual import activation_of, initialise, residual_head
from rheostat.nn.layers import Conv
from rheostat.nn.norms import Norm
from rheostat.points.resolved import Resolved

HEADS = ("paper", "light")
SMALL = 7
"""Light heads pool until no side is longer than this many pixels, or the shorter side has one pixel."""


def _architecture(net: Net) -> Architecture:
    """The registered architecture of a network, or the defaults if it was not built by name.

    ValueError for a network without feature maps.
    """
    if not net.blocks:
        raise ValueError(
            "exits need a network with a feature map (B, C, H, W) that is the only input of all later layers; "
            "this one has none (its features are tokens, or skip connections bypass every layer); ResNets and most "
            "other convolutional networks have them"
        )
    name = str(getattr(net, "spec", {}).get("name", ""))
    return NETS.get(name) if name in NETS else Architecture(lambda: net)


def _stages(net: Net) -> tuple[int, ...]:
    """The number of blocks of each stage, the stem first; a network without named stages counts as one stage."""
    return net.stages or (1, len(net.blocks) - 1)


def features_of(net: Net) -> list[Features]:
    """The features after each block, from one pass, before any method is installed."""
    at = Resolved()
    with torch.no_grad():
        shapes = [f.shape[1:] for f in net.features(torch.zeros(1, *net.image), at)]
    sizes = [h for _, h, _ in shapes]
    return [Features(c, h, w, len({s for s in sizes[i:] if s < h})) for i, (c, h, w) in enumerate(shapes)]


def default_positions(net: Net) -> tuple[int, ...]:
    """The network's own positions, else the paper's rule: blocks n/4 and 3n/4 of each stage of n after the stem."""
    own = _architecture(net).exit_positions
    if net.exit_positions is not None:
        return net.exit_positions
    if own is not None:
        return own(net)
    last = len(net.blocks) - 1
    found, first = [], _stages(net)[0]
    for count in _stages(net)[1:]:
        found += [first + count // 4, first + 3 * count // 4]
        first += count
    return tuple(sorted({b for b in found if b < last}))


def _light(net: Net, features: Features, *, normed: bool) -> Head:
    """Pool to at most 7×7 (see `SMALL`), one 3×3 convolution, pool, FC; at the last resolution only FC.

    In early stages, whose features are weak, the convolution doubles the channels.
    """
    if features.left == 0 and normed:
        return Head([], Classifier(features.channels, net.classes))
    times = 0
    shorter, longer = sorted((features.height, features.width))
    while longer >> times > SMALL and shorter >> times > 1:
        times += 1
    out = features.channels * (2 if features.left >= 2 else 1)
    norm = Norm(out) if normed else None
    conv = Conv(features.channels, out, padding=1, bias=norm is None)
    return Head([Pool(times), ConvBlock(conv, norm, activation=activation_of(net))], Classifier(out, net.classes))


def exits_of(net: Net, positions: tuple[int, ...], heads: str) -> list[Head]:
    """The heads of a network's exits after the given blocks; ValueError for an invalid position."""
    architecture = _architecture(net)
    known = features_of(net)
    last = len(known) - 1
    for position in positions:
        if not 0 <= position < last:
            raise ValueError(f"exits: no block {position} before the last; allowed: 0 to {last - 1}")
    normed = any(isinstance(m, Norm) for m in net.modules())
    paper_head = architecture.paper_head or residual_head
    out = []
    for number, position in enumerate(positions):
        features = known[position]
        light = heads == "light"
        head = _light(net, features, normed=normed) if light else paper_head(net, features, number)
        if architecture.preactivated:
            head.pieces.insert(0, Activate(features.channels))
        for norm in head.modules():
            if isinstance(norm, Norm):
                norm.conditioned = False  # its input is already conditioned
        initialise(list(head.pieces))  # type: ignore[arg-type]
        out.append(head)
    return out
