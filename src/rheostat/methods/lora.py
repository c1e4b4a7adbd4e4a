"""Low-rank adapters along the dial: W(λ) = W + s·(λ - ½)·B·A in every convolution and dense layer.

Also called low-rank adaptation. It does not fine-tune a frozen network: W and the adapters are trained together.
Source: PaLoRA (Dimitriadis et al., ICLR 2025), which has one adapter per objective:
W + s·((1-λ)·B₀·A₀ + λ·B₁·A₁), here `adapters="per-end"`. The adapter that both ends share with opposite signs is ours.
If all rows of a batch have one λ, the model is one network and folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.methods import segment
from rheostat.methods.base import Method, Term
from rheostat.methods.composition import METHODS, compose_as, register
from rheostat.nets.base import Net
from rheostat.nn.layers import Parts, Seat, Transform, append
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

ADAPTERS = ("shared", "per-end")


class Adapter(nn.Module):
    """A (r, in·k·k) and B (out, r) for a weight (out, in, k, k); B starts at 0, so the effective weight starts as W."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def product(self, shape: torch.Size) -> Tensor:
        """B·A in the shape of the weight."""
        return (self.up @ self.down).reshape(shape)


class LowRank(Transform):
    """Adds the adapters' product, scaled by λ. A batch with several λ takes two products, one of them scaled by row."""

    order = 5

    def __init__(self, weight: Tensor, *, rank: int, scale: float, count: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(weight, rank) for _ in range(count))
        self.scale = scale

    def ends(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(W(0), W(1) - W(0)): the start and the direction of the segment."""
        found = [a.product(weight.shape) for a in self.adapters if isinstance(a, Adapter)]
        if len(found) == 1:
            step = self.scale * found[0]
            return weight - 0.5 * step, step
        return torch.add(weight, found[0], alpha=self.scale), self.scale * (found[1] - found[0])

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        (weight, _), *rest = parts
        start, step = self.ends(weight)
        level = segment.amounts(at.robustness)
        if level is None:
            return ((start, None), (step, at.robustness.table), *rest)
        return ((start + level * step, None), *rest)


@register
@dataclass(frozen=True)
class Lora(Method):
    """Reads `robustness`; gives every convolution and dense layer adapters of rank `rank`, scaled by `alpha`/`rank`.

    `adapters` is "shared" (one for both ends, with opposite signs) or "per-end" (one for each). A layer whose maximal
    rank is lower uses that rank. `norms` and `terms` are as in `Line`.
    """

    rank: int = 8
    alpha: float = 16.0
    adapters: str = "shared"
    norms: str = "banked"
    terms: str = "sampled"

    seam = 45
    claims = "weight segment"
    reads = ("robustness",)

    def __post_init__(self) -> None:
        segment.check_segment(self.name, self.norms, self.terms)
        check_choice(self.name, "adapters", self.adapters, ADAPTERS)
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(
                f"lora: rank must be at least 1 and alpha above 0, given rank {self.rank} and alpha {self.alpha:g}"
            )

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        segment.install_norms(net, self.name, self.norms)
        count = 1 if self.adapters == "shared" else 2
        for seat in segment.weighted(net):
            rank = min(self.rank, seat.weight.shape[0], seat.weight[0].numel())
            append(seat, LowRank(seat.weight, rank=rank, scale=self.alpha / self.rank, count=count))

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        return segment.segment_terms(self.terms, batch, generator)

    def path(self, u: float) -> tuple[float, float]:
        return segment.segment_path(self.norms, self.terms, u)

    def after_step(self, net: Net, progress: float) -> None:
        for knots in segment.knots_of(net):
            knots.straighten()


compose_as(
    "lora",
    "Low-rank adapters between a standard and a robust end (after PaLoRA, ICLR 2025), dual norms.",
    METHODS.get("Dual"),
    Lora,
)
