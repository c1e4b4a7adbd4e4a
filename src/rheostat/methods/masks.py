"""Learned sparse weights: one mask per convolution, a fixed global density, learned per-layer ones.

Also called sparse training with regrowth; not magnitude pruning of a trained network. Source: FLOATS
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
    """Every convolution at a global `density`; `prune` is the share dropped and regrown at first.

    `structure` "unstructured": single weights; "channel": channels inside blocks, of which `density`
    is then the share that stays, so that the rest can be cut out. `start` "auto": "random" masks, but those of
    the largest weights ("magnitude") on an adopted network, whose weights are worth something. `gradients`
    "masked": masked places get none; "dense": they do, and keep their momentum until they grow again. `growth`
    "free": what is dropped regrows in proportion to importance, overflow likewise; "capped": at most 0.99 of a
    layer's free places, overflow spread equally, fewer weights dropped from layers above density 0.8. The
    convolutions of the first `dense_stages` stages (the stem is the first) have no masks.

    What the public code has, and ours: gradients "dense" ("masked"), growth "capped" ("free"), and Noise's
    under_masks False (True). A variant of it with dense stages that have no noise either is dense_stages k and Noise's
    quiet_stages k. That its masks are not saved and its number of weights drifts is not reproduced.
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
            raise ValueError(f"masks: dense_stages is not negative, given {self.dense_stages}")
        if not 0 < self.density < 1:
            raise ValueError(f"masks: density is between 0 and 1, given {self.density:g}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"masks: prune is in [0, 1), given {self.prune:g}")

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
        convs, paths = zip(*_paths(net), strict=True)
        weights = [c.weight for c in convs]
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
