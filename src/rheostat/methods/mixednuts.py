"""MixedNUTS: a mixture of two networks' probabilities, with a fitted nonlinearity on the robust network's logits.

p(x) = (1-α)·softmax(g(x)/T) + α·softmax(M(h(x))), g standard and h robust; the logits are log p. M makes h confident
where it is right under attack, and unconfident where it is wrong; α in [½, 1] then sets the trade-off. With T → 0,
every α below ½ would give g itself. It is not a mixture of experts: no router looks at the image. Source: MixedNUTS
(Bai, Zhou, Patel and Sojoudi, TMLR 2024; code Bai-YT/MixedNUTS). The finite T, which keeps the gradients of g, and
the dial whose ends are exactly g and M(h) are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.points.resolved import Resolved

FIRST = 0.1
"""The share of the dial that covers α < ½, where a finite T still gives a transition from g to the mixture."""
LEAST_CLASSES = 3
"""LN maps any two logits to the same two values, so M would have one confidence for all images, and no gradient."""
KEPT = 0.1
"""The share of M(h) that stays when an attack bypasses the nonlinearity, as in the authors' code."""

Ends = Callable[[Tensor, Resolved, float], Tensor]
"""(images, the point of these rows, 0.0 for the standard or 1.0 for the robust network) → that network's logits."""


@dataclass(frozen=True)
class Bypass:
    """Marks a pass with a smoother gradient for attacks: it uses mostly the raw logits of h, and T = 1."""


class Nonlinearity(nn.Module):
    """M(z) = s·|u|^p·sign(u) with u = GELU(LN(z) + c); LN is over the classes, unbiased, without affine parameters.

    s = p = 1 and c = 0 until `calibration.mixednuts.fit_nonlinearity` fits them.
    """

    scale: Tensor
    power: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("power", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def reset(self) -> None:
        """Set s, p and c to their values before the fit."""
        self.scale.fill_(1)
        self.power.fill_(1)
        self.bias.zero_()

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K) → (B, K)."""
        return transformed(logits, self.scale, self.power, self.bias)


def transformed(logits: Tensor, scale: Tensor, power: Tensor, bias: Tensor) -> Tensor:
    """M of logits (B, K); its gradient is finite wherever those of its terms are."""
    centred = logits - logits.mean(1, keepdim=True)
    # Computed explicitly, because the gradient of torch's variance is NaN if all logits are equal.
    count = logits.shape[1] - 1
    normed = centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + 1e-8)
    u = F.gelu(normed + bias)
    return scale * u.abs().clamp_min(1e-12).pow(power) * u.sign()


def mixed_log(standard: Tensor, robust: Tensor, alpha: Tensor) -> Tensor:
    """log((1-α)·p_standard + α·p_robust) from the logarithms of both, (B, K) each; α is (B, 1) or (1, 1).

    The computation never uses p itself, which may be 0 in floating point.
    """
    return torch.logaddexp(torch.log1p(-alpha) + standard, torch.log(alpha) + robust)


def alpha_of(level: Tensor) -> Tensor:
    """Map λ in [0, 1] to α: from 0 to ½ over the first tenth of the dial, then to 1, so that no jump occurs near g."""
    return torch.where(level < FIRST, level * (0.5 / FIRST), 1 - (1 - level) * (0.5 / (1 - FIRST)))


def mixed(x: Tensor, at: Resolved, ends: Ends, nonlinearity: nn.Module, temperature: float) -> Tensor:
    """(B, K) log p at the point's `robustness`; each row runs only the networks that it needs.

    Under export every row runs both, so that one graph serves all settings.
    """
    bypass = at.get(Bypass) is not None
    level = at.robustness

    def standard(images: Tensor, a: Resolved) -> Tensor:
        logits = ends(images, a, 0.0)
        return F.log_softmax(logits if bypass else logits / temperature, 1)

    def robust(images: Tensor, a: Resolved) -> Tensor:
        logits = ends(images, a, 1.0)
        found = F.log_softmax(nonlinearity(logits), 1)
        return mixed_log(F.log_softmax(logits, 1), found, found.new_tensor([[KEPT]])) if bypass else found

    if level.number is not None and level.number in (0.0, 1.0):
        return robust(x, at) if level.number else standard(x, at)
    alpha = alpha_of(level.table[:1] if level.number is not None else at.gather(level.table))[:, None]
    if level.number is not None or alpha.shape[0] == 1 or torch.compiler.is_exporting():
        return mixed_log(standard(x, at), robust(x, at), alpha)

    def of_rows(rows: Tensor, part: Callable[[Tensor, Resolved], Tensor]) -> Tensor | None:
        place = rows.nonzero()[:, 0]
        if not len(place) and len(x):  # a user's network may not take a batch of no images
            return None
        found = part(x[place], at.only(place))
        return found.new_zeros(len(x), found.shape[1]).index_copy(0, place, found)

    halves = of_rows((alpha < 1)[:, 0], standard), of_rows((alpha > 0)[:, 0], robust)
    # A network that a row skips has weight 0, so any finite value may replace its logits.
    blank = torch.zeros_like(next(half for half in halves if half is not None))
    first, second = (blank if half is None else half for half in halves)
    return mixed_log(first, second, alpha)
