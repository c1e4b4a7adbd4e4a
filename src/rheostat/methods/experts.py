"""Two sparse expert paths in one weight tensor: clean (λ = 0) and adversarial (λ = 1).

Also called sparse mixture once-for-all. Not a mixture of experts with a router: λ chooses. Source: SMART
(Kundu et al., ICASSP 2023). The published text of its mask rule was not available to us: learning each
path's masks by the rule of FLOATS from its own gradients is a reconstruction; random complementary
halves are what its authors' earlier code shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rheostat import channels
from rheostat.layers import Conv, append, seats
from rheostat.method import Method, Output, Read
from rheostat.nets.base import Net
from rheostat.points import Point, Resolved, check_choice
from rheostat.sparsity import Masking, Path, prune_rate, random_mask, rewire

OVERLAPS = ("free", "disjoint")
MASKS = ("learned", "random")


@dataclass(frozen=True)
class Experts(Method):
    """Reads `robustness`; each path has `density` of the weights of every unshared convolution.

    `overlap` "free", or "disjoint" (densities of at most 0.5). `masks` "learned" or "random".
    `shared_stages` first stages (the stem is the first) stay dense and shared. Between the ends the
    logits are mixed, (1-λ)·f_c + λ·f_a: two passes, and the cost says so. `structure` as in masks.
    """

    density: float = 0.35
    overlap: str = "free"
    masks: str = "learned"
    shared_stages: int = 0
    prune: float = 0.5
    structure: str = "unstructured"

    seam = 60
    claims = "weight masks"
    reads = ("robustness",)

    def __post_init__(self) -> None:
        for what, given, allowed in (
            ("overlap", self.overlap, OVERLAPS),
            ("masks", self.masks, MASKS),
            ("structure", self.structure, channels.STRUCTURES),
        ):
            check_choice("experts", what, given, allowed)
        most = 0.5 if self.overlap == "disjoint" else 1.0
        if not 0 < self.density <= most:
            raise ValueError(
                f"experts: density is above 0 and at most {most:g} with {self.overlap} paths, "
                f"given {self.density:g}"
            )
        if self.shared_stages < 0:
            raise ValueError(f"experts: shared_stages is not negative, given {self.shared_stages}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        if self.shared_stages >= max(len(net.stages), 1):
            raise ValueError(
                f"experts: shared_stages must be below the {len(net.stages)} stages of this network"
            )
        first = sum(net.stages[: self.shared_stages])
        if self.structure == "channel":
            for group in channels.groups_of(net, self.name, net.blocks[first:]):
                channels.install(group, self._pair(channels.random_channels, group))
            return self._store_masked(net)
        shared = {id(conv) for block in net.blocks[:first] for conv in seats(block, Conv)}
        for conv in seats(net, Conv):
            if id(conv) not in shared:
                masks = self._pair(random_mask, conv.weight)
                append(conv, Masking([Path(conv.weight, mask) for mask in masks]))
        self._store_masked(net)

    def _pair(self, draw: Callable[..., Tensor], what: object) -> list[Tensor]:
        """Random masks of the clean path and of the robust one."""
        clean = draw(what, self.density)
        return [
            clean,
            draw(what, self.density, without=clean if self.overlap == "disjoint" else None),
        ]

    def derive(self, net: Net, at: Resolved) -> Resolved:
        level = at.table["robustness"]
        if at.phase != "eval":
            return replace(at, scalars={**at.scalars, "path": float(bool((level > 0).any()))})
        return at

    def read(self, net: Net, x: Tensor, at: Resolved, then: Read) -> Output:
        if "path" in at.scalars:
            return then(x, at)
        if "robustness" in at.scalars:  # one setting for the batch
            level = at.scalars["robustness"]
            if level in (0.0, 1.0):
                return then(x, _end(at, level))
            if at.scalars.get("exit"):
                raise ValueError(
                    f"experts: at robustness {level:g} two paths are mixed, and exits are live at 0 "
                    "and 1 only; leave the dial exit at 0"
                )
            return self._mixed(x, at, at.table["robustness"][:1], then)
        levels = at.gather(at.table["robustness"]).expand(x.shape[0])
        if torch.compiler.is_exporting():
            return self._mixed(x, at, levels, then)
        return self._split(x, at, levels, then)

    def _mixed(self, x: Tensor, at: Resolved, level: Tensor, then: Read) -> Output:
        clean, robust = (_stack(then(x, _end(at, end))) for end in (0.0, 1.0))
        return _unstack(torch.lerp(clean, robust, level[:, None, None]))

    def _split(self, x: Tensor, at: Resolved, levels: Tensor, then: Read) -> Output:
        """A mixed batch: each row through the paths that it needs, no others."""
        total: Tensor | None = None
        for end, share in ((0.0, 1 - levels), (1.0, levels)):
            rows = share.nonzero()[:, 0]
            found = _stack(then(x[rows], _end(at.only(rows), end))) * share[rows, None, None]
            if total is None:
                total = found.new_zeros(len(x), *found.shape[1:])
            total = total.index_add(0, rows, found)
        assert total is not None
        return _unstack(total)

    def passes(self, point: Point) -> int:
        """Two between the ends."""
        level = torch.as_tensor(point.get("robustness", 0.0))
        return 1 + int(bool(((level > 0) & (level < 1)).any()))

    def after_step(self, net: Net, progress: float) -> None:
        for _, masking in _maskings(net):
            for path in masking.paths:
                assert isinstance(path, Path)
                path.settle()
        self._store_masked(net)

    def after_epoch(self, net: Net, progress: float) -> None:
        if self.masks == "random":
            return
        rate = prune_rate(progress, self.prune)
        found = _maskings(net)
        weights = [conv.weight for conv, _ in found]
        for mine, other in ((0, 1), (1, 0)):
            paths = [masking.paths[mine] for _, masking in found]
            others = [masking.paths[other].units() for _, masking in found]  # type: ignore[operator]
            blocked = others if self.overlap == "disjoint" else [None] * len(found)
            rewire(weights, paths, rate, blocked=blocked)  # type: ignore[arg-type]
        self._store_masked(net)

    def finish(self, net: Net) -> None:
        if self.structure == "channel":
            first = sum(net.stages[: self.shared_stages])
            channels.clear(channels.groups_of(net, self.name, net.blocks[first:]))

    @torch.no_grad()
    def _store_masked(self, net: Net) -> None:
        for conv, masking in _maskings(net):
            conv.weight.mul_(masking.union())


def _stack(output: Output) -> Tensor:
    """(n, 1 + E, K): the logits that count and those of the exits."""
    return torch.stack((output.logits, *output.exits), 1)


def _unstack(logits: Tensor) -> Output:
    first, *exits = logits.unbind(1)
    return Output(first, tuple(exits))


def _end(at: Resolved, end: float) -> Resolved:
    """The view of a pass wholly at one end: the settings of other dials as they are."""
    one = torch.full_like(at.table["robustness"], end)
    table = {**at.table, "robustness": one}
    scalars = {**at.scalars, "robustness": end, "path": end, "adversarial": end}
    memo = None if at.memo is None else at.memo.setdefault(-1 - int(end), {})
    return replace(at, table=table, scalars=scalars, memo=memo)  # type: ignore[arg-type]


def _maskings(net: Net) -> list[tuple[Conv, Masking]]:
    return [
        (conv, transform)
        for conv in seats(net, Conv)
        for transform in conv.transforms
        if isinstance(transform, Masking)
    ]
