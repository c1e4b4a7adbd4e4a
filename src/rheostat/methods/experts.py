"""Two sparse expert paths in one weight tensor: clean (λ = 0) and adversarial (λ = 1).

Also called sparse mixture once-for-all. It is not a mixture of experts with a router: λ selects the path. Source:
SMART (Kundu et al., ICASSP 2023). We did not have the published text of its mask rule. Learning each path's masks
from the path's gradients by the rule of FLOATS is our reconstruction; the authors' earlier code uses random
complementary halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rheostat.methods import channels
from rheostat.methods.base import Method, Output, Read
from rheostat.methods.composition import register
from rheostat.methods.mixture import mixture, mixture_passes
from rheostat.methods.starts import STARTS, by_magnitude
from rheostat.nets.base import Net
from rheostat.nn.layers import Seat, append, weighted
from rheostat.nn.masking import Masking, Path, PathChoice, magnitude_mask, random_mask
from rheostat.nn.norms import NormChoice
from rheostat.nn.rewiring import prune_rate, rewire
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

OVERLAPS = ("free", "disjoint")
MASKS = ("learned", "random")


@register
@dataclass(frozen=True)
class Experts(Method):
    """Reads `robustness`; each path has `density` of the weights of every unshared convolution.

    `overlap` is "free", or "disjoint" (density at most 0.5). `masks` is "learned" or "random". The first
    `shared_stages` stages (the stem counts as the first) stay dense and shared. Between the ends the logits are
    mixed, (1-λ)·f_c + λ·f_a, which costs two passes. `structure` and `start` are as in `Masks`.

    The whole method is a reconstruction. `variant="paper"` of "smart" follows the authors' earlier public code: masks
    "random", overlap "disjoint", density 0.5 (complementary halves), and dense shared first stages; their number is
    unknown, and we use shared_stages 2. Our defaults are "learned", "free", 0.35 and 0.
    """

    density: float = 0.35
    overlap: str = "free"
    masks: str = "learned"
    shared_stages: int = 0
    prune: float = 0.5
    structure: str = "unstructured"
    start: str = "auto"

    seam = 60
    claims = "weight masks"
    reads = ("robustness",)

    def __post_init__(self) -> None:
        for what, given, allowed in (
            ("overlap", self.overlap, OVERLAPS),
            ("masks", self.masks, MASKS),
            ("structure", self.structure, channels.STRUCTURES),
            ("start", self.start, STARTS),
        ):
            check_choice("experts", what, given, allowed)
        most = 0.5 if self.overlap == "disjoint" else 1.0
        if not 0 < self.density <= most:
            raise ValueError(
                f"experts: density must be above 0 and at most {most:g} with {self.overlap} paths, "
                f"given {self.density:g}"
            )
        if self.shared_stages < 0:
            raise ValueError(f"experts: shared_stages must be at least 0, given {self.shared_stages}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"experts: prune must be in [0, 1), given {self.prune:g}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        if self.shared_stages >= max(len(net.stages), 1):
            raise ValueError(f"experts: shared_stages must be below the {len(net.stages)} stages of this network")
        first = sum(net.stages[: self.shared_stages])
        largest = by_magnitude(self.start, net)
        if self.structure == "channel":
            for group in channels.groups_of(net, self.name, net.blocks[first:]):
                draw = channels.largest_channels if largest else channels.random_channels
                channels.install(group, self._pair(draw, group))
            return self._store_masked(net)
        shared = {id(conv) for block in net.blocks[:first] for conv in weighted(block)}
        for conv in weighted(net):
            if id(conv) not in shared:
                masks = self._pair(magnitude_mask if largest else random_mask, conv.weight)
                append(conv, Masking([Path(conv.weight, mask) for mask in masks]))
        self._store_masked(net)

    def _pair(self, draw: Callable[..., Tensor], what: object) -> list[Tensor]:
        """The initial masks of the clean path and of the robust one."""
        clean = draw(what, self.density)
        return [clean, draw(what, self.density, without=clean if self.overlap == "disjoint" else None)]

    def derive(self, net: Net, at: Resolved) -> Resolved:
        if at.phase is Phase.EVAL:
            return at
        return at.with_(PathChoice(second=bool((at.robustness.table > 0).any())))

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        if at.get(PathChoice) is not None:
            return then(x, at)
        if at.settings.get("exit"):
            levels = at.robustness.table
            for level in levels[(levels > 0) & (levels < 1)][:1].tolist():
                raise ValueError(
                    f"experts: at robustness {level:g} two paths are mixed, and exits work only at 0 "
                    "and 1; leave the dial exit at 0"
                )
        return mixture(x, at, lambda y, a, end: then(y, _end(a, end)))

    def passes(self, point: Point) -> int:
        return mixture_passes(point)

    def after_step(self, net: Net, progress: float) -> None:
        for _, masking in _maskings(net):
            for number in range(len(masking.paths)):
                masking.path(number).settle()
        self._store_masked(net)

    def after_epoch(self, net: Net, progress: float) -> None:
        if self.masks == "random":
            return
        rate = prune_rate(progress, self.prune)
        # A frozen weight gets no gradient, so its layer takes no part: the others would regrow what it drops.
        found = [(conv, masking) for conv, masking in _maskings(net) if conv.weight.requires_grad]
        weights = [conv.weight for conv, _ in found]
        for number, other in ((0, 1), (1, 0)):
            paths = [masking.path(number) for _, masking in found]
            others = [masking.path(other).units() for _, masking in found]
            blocked = others if self.overlap == "disjoint" else [None] * len(found)
            rewire(weights, paths, rate, blocked=blocked)
        self._store_masked(net)

    def finish(self, net: Net) -> None:
        if self.structure == "channel":
            first = sum(net.stages[: self.shared_stages])
            channels.clear(channels.groups_of(net, self.name, net.blocks[first:]))

    @torch.no_grad()
    def _store_masked(self, net: Net) -> None:
        for conv, masking in _maskings(net):
            conv.weight.mul_(masking.union())


def _end(at: Resolved, end: float) -> Resolved:
    """The point with robustness at one end, with the values that methods derive from it computed anew; other dials are
    unchanged."""
    robust = bool(end)
    at = at.turned(robustness=end).derived_anew()
    at = at.with_(PathChoice(second=robust)).with_(NormChoice(adversarial=robust))
    return at.apart(int(end))


def _maskings(net: Net) -> list[tuple[Seat, Masking]]:
    return [
        (conv, transform) for conv in weighted(net) for transform in conv.transforms if isinstance(transform, Masking)
    ]
