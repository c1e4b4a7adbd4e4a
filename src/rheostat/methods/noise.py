"""Noise-conditioned weights: Ŵ = W + λ·α·η in every convolution, η ~ N(0, std(W)²).

Not a Bayesian network, and deployed not a randomised defence: `draw="frozen"` keeps η in the model, so
that a point is deterministic. Source: FLOAT (Kundu et al., WACV 2023, §3).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.methods.base import Method, Term
from rheostat.methods.composition import register
from rheostat.nets.base import Net
from rheostat.nn.layers import Parts, Seat, Transform, append, weighted
from rheostat.nn.masking import active
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

ALPHAS = ("free", "softplus", "fixed")
DRAWS = ("frozen", "sampled")
SCALES = ("linear", "two-sided")
POOL_SEED = 0
LEAST_POOL = 1 << 20


@dataclass(frozen=True)
class NoiseLevel:
    """How much of its noise each setting takes, (S,); `none` where it is known that none takes any."""

    table: Tensor
    none: bool = False


class WeightNoise(Transform):
    """Adds λ·α·σ·η; σ is the deviation of the whole tensor's (active) weights, without gradient."""

    order = 10
    eta: Tensor

    def __init__(self, weight: Tensor, *, alpha: str, initial: float, draw: str) -> None:
        super().__init__()
        start = initial if alpha != "softplus" else float(torch.tensor(initial).expm1().log())
        self.alpha = nn.Parameter(torch.tensor(start), requires_grad=alpha != "fixed")
        self.register_buffer("eta", torch.randn(weight.shape))
        self.kind, self.draw = alpha, draw

    def strength(self) -> Tensor:
        """α as it is used."""
        return F.softplus(self.alpha) if self.kind == "softplus" else self.alpha

    def draws(self, at: Resolved) -> bool:
        return self.draw == "sampled" or at.phase is not Phase.EVAL

    def _noise(self, at: Resolved) -> Tensor:
        if not self.draws(at):
            return self.eta
        if self.eta.device.type == "cpu":
            if at.phase is Phase.EVAL:
                return torch.randn(self.eta.shape, generator=at.generator)
            return window(self.eta.shape, at.generator)
        if at.generator is None:
            return torch.randn(self.eta.shape, device=self.eta.device)
        seed = int(torch.randint(2**62, (1,), generator=at.generator))
        own = torch.Generator(self.eta.device).manual_seed(seed)
        return torch.randn(self.eta.shape, generator=own, device=self.eta.device)

    def forward(self, parts: Parts, seat: Seat, x: Tensor, at: Resolved) -> Parts:
        level = at.of(NoiseLevel)
        if level.none:
            return parts
        amount = level.table
        sigma = at.once(self, lambda: deviation(seat.weight.detach(), active(seat, at)))
        size = self.strength() * sigma
        eta = self._noise(at)
        if amount.shape[0] == 1:
            (weight, _), *rest = parts
            # One pass over the weights: on wide networks this sum is what the noise costs.
            return ((torch.addcmul(weight, eta, amount * size), None), *rest)
        return (*parts, (size * eta, amount))


@functools.cache
def pool(size: int) -> Tensor:
    """Unit normals, the same in every process, twice as many as asked for."""
    return torch.randn(2 * size, generator=torch.Generator().manual_seed(POOL_SEED))


def window(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Unit normals for a training pass on the CPU: a window at a random place of a fixed pool.

    Drawing millions of normals takes as long there as a small batch's convolutions. Within a window they
    are independent, and so is one weight's noise from pass to pass; evaluation draws anew.
    """
    count = shape.numel()
    normals = pool(max(LEAST_POOL, 1 << (count - 1).bit_length()))
    first = int(torch.randint(len(normals) - count + 1, (), generator=generator))
    return normals[first : first + count].view(shape)


def deviation(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Standard deviation of a tensor's entries; of those under a 0/1 mask, where there is one."""
    if mask is None:
        return weight.std(correction=0)
    count = mask.sum()
    mean = (weight * mask).sum() / count
    return (((weight - mean) * mask).square().sum() / count).sqrt()


@register
@dataclass(frozen=True)
class Noise(Method):
    """Reads `robustness`; the noise of a point is λ times a learned α per convolution.

    `draw` "frozen" (one η kept with the model; training samples all the same) or "sampled" (a
    randomised defence: to be evaluated by expectation over draws). `alpha` "free", "softplus" or
    "fixed". `scale` "linear", or "two-sided": 2λ below one half and 2(λ - 0.5) above, as a variant of
    the public code has it. `clean_through_adversarial_norm` also sends the clean images of the
    adversarial rows through that norm set, for its statistics alone, as the public code does.
    """

    draw: str = "frozen"
    alpha: str = "free"
    initial: float = 0.25
    scale: str = "linear"
    clean_through_adversarial_norm: bool = False

    seam = 40
    claims = "weight noise"
    reads = ("robustness",)

    def __post_init__(self) -> None:
        for what, given, allowed in (
            ("draw", self.draw, DRAWS),
            ("alpha", self.alpha, ALPHAS),
            ("scale", self.scale, SCALES),
        ):
            check_choice("noise", what, given, allowed)
        if self.initial <= 0:
            raise ValueError(f"noise: initial must be positive, given {self.initial:g}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        for conv in weighted(net):
            append(conv, WeightNoise(conv.weight, alpha=self.alpha, initial=self.initial, draw=self.draw))

    def derive(self, net: Net, at: Resolved) -> Resolved:
        level = at.robustness.table
        if self.scale == "two-sided":
            level = torch.where(level < 0.5, 2 * level, 2 * level - 1)
        # A number is known without waiting for a device.
        return at.with_(NoiseLevel(level, none=at.robustness.number == 0.0))

    def extend(self, terms: list[Term]) -> list[Term]:
        if not self.clean_through_adversarial_norm:
            return terms
        return [*terms, *(replace(t, images="clean", weight=0.0) for t in terms if t.images == "adversarial")]

    def undecayed(self, net: Net) -> list[nn.Parameter]:
        """α takes no weight decay (ours; METHODS 3)."""
        return [t.alpha for c in weighted(net) for t in c.transforms if isinstance(t, WeightNoise)]

    def randomised(self, point: Point) -> bool:
        level = point.get("robustness", 0.0)
        return self.draw == "sampled" and bool(torch.as_tensor(level).gt(0).any())


def strengths(net: nn.Module) -> list[float]:
    """α of every convolution, in the order of the network: what FLOAT asks to be reported."""
    return [float(t.strength().detach()) for c in weighted(net) for t in c.transforms if isinstance(t, WeightNoise)]
