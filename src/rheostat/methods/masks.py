"""Learned sparse weights: one mask per convolution, a fixed global density and learned densities per layer.

Also called sparse training with regrowth. It does not prune a trained network by magnitude. Source: FLOATS
(Kundu et al., WACV 2023, §3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rheostat.methods import channels
from rheostat.methods.base import Method
from rheostat.methods.composition import register
from rheostat.methods.starts import STARTS, by_magnitude
from rheostat.nets.base import Inner, Net, first_stages
from rheostat.nn.layers import Seat, append, weighted
from rheostat.nn.masking import Masking, Path, magnitude_mask, random_mask
from rheostat.nn.rewiring import GROWTHS, prune_rate, rewire
from rheostat.runtime.choices import check_choice


@register
@dataclass(frozen=True)
class Masks(Method):
    """Masks all convolutions to a global `density`; `prune` is the initial share of weights dropped and regrown.

    `structure` "unstructured" masks single weights; "channel" masks channels inside blocks, and keeps the share
    `density` of them, so that the others can be cut out. `start` "auto" draws "random" masks, but keeps the largest
    weights ("magnitude") on an adopted network, whose weights are trained. With `gradients` "masked", masked weights
    get no gradient; with "dense" they do, and keep their momentum until they regrow. With `growth` "free", layers
    regrow in proportion to importance, and overflow is distributed the same way; with "capped", a layer regrows at
    most 0.99 of its free weights, overflow is spread equally, and layers above density 0.8 drop fewer weights. The
    convolutions of the first `dense_stages` stages (the stem counts as the first) have no masks.

    Settings of the public code, and ours in brackets: gradients "dense" ("masked"), growth "capped" ("free"),
    under_masks of `Noise` False (True). For its variant with dense and noise-free first stages, set dense_stages and
    quiet_stages of `Noise` to the same number. We do not reproduce two of its defects: it does not save the masks, and
    its number of active weights drifts.
    """

    density: float = 0.3
    prune: float = 0.5
    structure: str = "unstructured"
    start: str = "auto"
    gradients: str = "masked"
    growth: str = "free"
    dense_stages: int = 0

    seam = 50
    claims = "weight masks"

    def __post_init__(self) -> None:
        for what, given, allowed in (
            ("structure", self.structure, channels.STRUCTURES),
            ("start", self.start, STARTS),
            ("gradients", self.gradients, ("masked", "dense")),
            ("growth", self.growth, GROWTHS),
        ):
            check_choice("masks", what, given, allowed)
        if self.dense_stages < 0:
            raise ValueError(f"masks: dense_stages must be at least 0, given {self.dense_stages}")
        if not 0 < self.density < 1:
            raise ValueError(f"masks: density must be between 0 and 1, given {self.density:g}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"masks: prune must be in [0, 1), given {self.prune:g}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        dense = first_stages(net, self.dense_stages, f"{self.name}: dense_stages")
        largest = by_magnitude(self.start, net)
        gradient = self.gradients == "dense"
        if self.structure == "channel":
            draw = channels.largest_channels if largest else channels.random_channels
            for group in self._groups(net):
                channels.install(group, [draw(group, self.density)], dense_gradient=gradient)
        else:
            make = magnitude_mask if largest else random_mask
            for conv in weighted(net):
                if conv not in dense:
                    path = Path(conv.weight, make(conv.weight, self.density), dense_gradient=gradient)
                    append(conv, Masking([path]))
        self._store_masked(net)

    def _groups(self, net: Net) -> list[Inner]:
        return channels.groups_of(net, self.name, net.blocks[sum(net.stages[: self.dense_stages]) :])

    def after_step(self, net: Net, progress: float) -> None:
        for _, path in _paths(net):
            path.settle()
        self._store_masked(net)

    def after_epoch(self, net: Net, progress: float) -> None:
        # A frozen weight gets no gradient, so its layer takes no part: the others would regrow what it drops.
        found = [(conv.weight, path) for conv, path in _paths(net) if conv.weight.requires_grad]
        weights, paths = [weight for weight, _ in found], [path for _, path in found]
        rewire(weights, paths, prune_rate(progress, self.prune), blocked=[None] * len(paths), growth=self.growth)
        self._store_masked(net)

    def finish(self, net: Net) -> None:
        if self.structure == "channel":
            channels.clear(self._groups(net))

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
