"""Learned sparse weights: one mask per convolution, a fixed global density, learned per-layer ones.

Also called sparse training with regrowth; not magnitude pruning of a trained network. Source: FLOATS
(Kundu et al., WACV 2023, §3.3). The mask covers the noise too (the public code's does not).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rheostat.methods import channels
from rheostat.methods.base import Method
from rheostat.methods.composition import register
from rheostat.nets.base import Net
from rheostat.nn.layers import Seat, append, weighted
from rheostat.nn.masking import Masking, Path, prune_rate, random_mask, rewire
from rheostat.runtime.choices import check_choice


@register
@dataclass(frozen=True)
class Masks(Method):
    """Every convolution at a global `density`; `prune` is the share dropped and regrown at first.

    `structure` "unstructured": single weights; "channel": channels inside blocks, of which `density`
    is then the share that stays, so that the rest can be cut out.
    """

    density: float = 0.3
    prune: float = 0.5
    structure: str = "unstructured"

    seam = 50
    claims = "weight masks"

    def __post_init__(self) -> None:
        check_choice("masks", "structure", self.structure, channels.STRUCTURES)
        if not 0 < self.density < 1:
            raise ValueError(f"masks: density is between 0 and 1, given {self.density:g}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"masks: prune is in [0, 1), given {self.prune:g}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        if self.structure == "channel":
            for group in channels.groups_of(net, self.name):
                channels.install(group, [channels.random_channels(group, self.density)])
        else:
            for conv in weighted(net):
                mask = random_mask(conv.weight, self.density)
                append(conv, Masking([Path(conv.weight, mask)]))
        self._store_masked(net)

    def after_step(self, net: Net, progress: float) -> None:
        for _, path in _paths(net):
            path.settle()
        self._store_masked(net)

    def after_epoch(self, net: Net, progress: float) -> None:
        convs, paths = zip(*_paths(net), strict=True)
        weights = [c.weight for c in convs]
        rewire(weights, paths, prune_rate(progress, self.prune), blocked=[None] * len(paths))
        self._store_masked(net)

    def finish(self, net: Net) -> None:
        if self.structure == "channel":
            channels.clear(channels.groups_of(net, self.name))

    @torch.no_grad()
    def _store_masked(self, net: Net) -> None:
        for conv, path in _paths(net):
            conv.weight.mul_(path.mask)


def _paths(net: Net) -> list[tuple[Seat, Path]]:
    return [
        (conv, transform.path(0))
        for conv in weighted(net)
        for transform in conv.transforms
        if isinstance(transform, Masking)
    ]
