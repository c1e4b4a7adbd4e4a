"""Noise-conditioned weights: Ŵ = W + λ·α·η in every convolution, η ~ N(0, std(W)²).

It is not a Bayesian network and, by default, not a randomised defence: `draw="frozen"` keeps η in the model, so that
a point is deterministic. Source: FLOAT (Kundu et al., WACV 2023, §3).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.methods.base import Method, Term
from rheostat.methods.composition import register
from rheostat.nets.base import Net, first_stages
from rheostat.nn.layers import Parts, Seat, Transform, append, weighted
from rheostat.nn.masking import active
from rheostat.points.phase import Phase
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice
from rheostat.runtime.seeding import seed_of

ALPHAS = ("free", "softplus", "fixed")
DRAWS = ("frozen", "sampled")
SCALES = ("linear", "two-sided")
LEAST_POOL = 1 << 20
DIGEST = 8
"""Number of entries of η that determine the seed of the pool."""
BEHIND_MASKS = 25


@dataclass(frozen=True)
class NoiseLevel:
    """The factor of the noise at each setting, (S,); `none` if all are known to be 0."""

    table: Tensor
    none: bool = False


class WeightNoise(Transform):
    """Adds λ·α·σ·η; σ is the standard deviation of the tensor's active weights, without gradient.

    With `dense`, the noise comes after the masks, also on masked weights, with the σ of all entries. On the CPU,
    training takes its noise from a pool, whose seed is a digest of the frozen η of `first` (by default this one's).
    """

    order = 10
    eta: Tensor

    def __init__(
        self,
        weight: Tensor,
        *,
        alpha: str,
        initial: float,
        draw: str,
        correction: int = 0,
        dense: bool = False,
        first: WeightNoise | None = None,
    ) -> None:
        super().__init__()
        self.order = BEHIND_MASKS if dense else self.order
        self.correction, self.dense = correction, dense
        self._first = (self if first is None else first,)  # in a tuple: it is another seat's part
        start = initial if alpha != "softplus" else float(torch.tensor(initial).expm1().log())
        self.alpha = nn.Parameter(torch.tensor(start), requires_grad=alpha != "fixed")
        self.register_buffer("eta", torch.randn(weight.shape))
        self.kind, self.draw = alpha, draw

    def strength(self) -> Tensor:
        """The effective α, after `alpha`'s parametrisation."""
        return F.softplus(self.alpha) if self.kind == "softplus" else self.alpha

    def draws(self, at: Resolved) -> bool:
        return self.draw == "sampled" or at.phase is not Phase.EVAL

    def pool_seed(self) -> int:
        """The seed of the pool. It follows from η, so it depends on the run's seed and is saved with the model."""
        return seed_of("pool of noise", *self._first[0].eta.flatten()[:DIGEST].tolist())

    def _noise(self, at: Resolved) -> Tensor:
        if not self.draws(at):
            return self.eta
        if self.eta.device.type == "cpu":
            if at.phase is Phase.EVAL:
                return torch.randn(self.eta.shape, generator=at.generator)
            return window(self.eta.shape, at.generator, self.pool_seed())
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
        mask = None if self.dense else active(seat, at)
        sigma = at.once(self, lambda: deviation(seat.weight.detach(), mask, correction=self.correction))
        size = self.strength() * sigma
        eta = self._noise(at)
        if amount.shape[0] == 1:
            (weight, _), *rest = parts
            # One pass over the weights: on wide networks this sum dominates the cost of the noise.
            return ((torch.addcmul(weight, eta, amount * size), None), *rest)
        return (*parts, (size * eta, amount))


@functools.lru_cache(maxsize=4)
def pool(size: int, seed: int) -> Tensor:
    """2·`size` standard normal values from a seed, the same in every process."""
    return torch.randn(2 * size, generator=torch.Generator().manual_seed(seed))


def window(shape: torch.Size, generator: torch.Generator | None, seed: int) -> Tensor:
    """Standard normal values for a training pass on the CPU: a window at a random offset of the run's pool.

    Drawing millions of normals takes as long there as a small batch's convolutions. The values of one window are
    independent standard normals. The windows of two layers or passes may overlap, but a weight gets the same η in
    both only if both windows have the same offset (one pair in a million). Runs of different seeds have different
    pools. Evaluation, and training on an accelerator, draw new values.
    """
    count = shape.numel()
    normals = pool(max(LEAST_POOL, 1 << (count - 1).bit_length()), seed)
    first = int(torch.randint(len(normals) - count + 1, (), generator=generator))
    return normals[first : first + count].view(shape)


def deviation(weight: Tensor, mask: Tensor | None, *, correction: int = 0) -> Tensor:
    """Standard deviation of a tensor's entries, or of those that a 0/1 mask selects.

    The sum of squares is divided by the number of entries less `correction`.
    """
    if mask is None:
        return weight.std(correction=correction)
    count = mask.sum()
    mean = (weight * mask).sum() / count
    return (((weight - mean) * mask).square().sum() / (count - correction).clamp_min(1)).sqrt()


@register
@dataclass(frozen=True)
class Noise(Method):
    """Reads `robustness`; the noise of a point is λ times a learned α per convolution.

    `draw` is "frozen" (one η kept with the model; training still samples) or "sampled" (a randomised defence, to be
    evaluated by expectation over draws). `alpha` is "free", "softplus" or "fixed"; `decayed_alpha` gives it weight
    decay. σ divides by n less `correction`. `scale` is "linear", or "two-sided": 2λ below `threshold` and 2(λ - 0.5)
    above, as in a variant of the public code. `clean_through_adversarial_norm` adds a clean pass of the attacked rows,
    through the adversarial norms without noise, before the attacked pass; each mean of the three then has a quarter
    of the loss. `late_attack` runs the attack after the clean passes have updated the statistics. With `under_masks`
    False, masks do not apply to the noise and its σ. The convolutions of the first `quiet_stages` stages (the stem
    counts as the first) have no noise.

    Settings of the public code, and ours in brackets: draw "sampled" ("frozen"), clean_through_adversarial_norm and
    late_attack True (False), correction 1 (0), decayed_alpha True (False), threshold 0.6 (0.5), under_masks False
    (True), between of `Dual` "at-0.1" ("blend"; "at-0.6" for its two-sided rule). In the recipe: train.rate_by
    "epoch" ("step"), net.initialisation "default" ("he", 2.45 times as wide for 3×3 kernels that keep the number of
    channels).
    """

    draw: str = "frozen"
    alpha: str = "free"
    initial: float = 0.25
    scale: str = "linear"
    threshold: float = 0.5
    correction: int = 0
    decayed_alpha: bool = False
    clean_through_adversarial_norm: bool = False
    late_attack: bool = False
    under_masks: bool = True
    quiet_stages: int = 0

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
            raise ValueError(f"noise: initial must be above 0, given {self.initial:g}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"noise: threshold must be above 0 and at most 1, given {self.threshold:g}")
        if self.correction not in (0, 1):
            raise ValueError(f"noise: correction must be 0 or 1, given {self.correction}")
        if self.quiet_stages < 0:
            raise ValueError(f"noise: quiet_stages must be at least 0, given {self.quiet_stages}")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        quiet = first_stages(net, self.quiet_stages, f"{self.name}: quiet_stages")
        first: WeightNoise | None = None
        for conv in weighted(net):
            if conv in quiet:
                continue
            noise = WeightNoise(
                conv.weight,
                alpha=self.alpha,
                initial=self.initial,
                draw=self.draw,
                correction=self.correction,
                dense=not self.under_masks,
                first=first,
            )
            first = first or noise
            append(conv, noise)

    def derive(self, net: Net, at: Resolved) -> Resolved:
        level = at.robustness.table
        if self.scale == "two-sided":
            level = torch.where(level < self.threshold, 2 * level, 2 * level - 1)
        # A Python number is known without waiting for a device.
        return at.with_(NoiseLevel(level, none=at.robustness.number == 0.0))

    def extend(self, terms: list[Term]) -> list[Term]:
        clean = [t for t in terms if t.images == "clean"]
        attacked = [replace(t, late=self.late_attack) for t in terms if t.images == "adversarial"]
        if not self.clean_through_adversarial_norm:
            return [*clean, *attacked] if self.late_attack else terms
        off = (NoiseLevel(torch.zeros(1), none=True),)
        through = [replace(t, images="clean", late=False, given=(*t.given, *off)) for t in attacked]
        # The means of two halves have weight ½ each; those of three groups ¼ each.
        return [replace(t, weight=t.weight * 0.5) for t in (*clean, *through, *attacked)]

    def undecayed(self, net: Net) -> list[nn.Parameter]:
        """α takes no weight decay, unless `decayed_alpha`."""
        if self.decayed_alpha:
            return []
        return [t.alpha for c in weighted(net) for t in c.transforms if isinstance(t, WeightNoise)]

    def randomised(self, point: Point) -> bool:
        level = point.get("robustness", 0.0)
        return self.draw == "sampled" and bool(torch.as_tensor(level).gt(0).any())


def strengths(net: nn.Module) -> list[float]:
    """α of every convolution in network order, which the FLOAT paper reports."""
    return [float(t.strength().detach()) for c in weighted(net) for t in c.transforms if isinstance(t, WeightNoise)]
