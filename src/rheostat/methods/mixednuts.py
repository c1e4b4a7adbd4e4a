"""Probabilities of two networks mixed, the robust one's logits through a nonlinearity that is fitted.

p(x) = (1-α)·softmax(g(x)/T) + α·softmax(M(h(x))), g standard and h robust; the logits are log p. M makes h sure
of itself where it is right under attack, and unsure where it is wrong: then α in [½, 1] chooses between the two.
With T → 0 every α below ½ would be g itself. Not a mixture of experts: no router looks at the image. Source:
MixedNUTS (Bai, Zhou, Patel and Sojoudi, TMLR 2024; code Bai-YT/MixedNUTS). A finite T, which keeps the
gradients of g, and a dial whose ends are g and M(h) themselves are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.points.resolved import Resolved

FIRST = 0.1
"""The share of the dial below α = ½, where a finite T still leaves something between g and the mixture."""
KEPT = 0.1
"""The share of M(h) that an attack which bypasses the nonlinearity keeps, as in the authors' code."""

Ends = Callable[[Tensor, Resolved, float], Tensor]
"""Logits of one network alone: images, the point of these rows, 0.0 for the standard one or 1.0 for the robust."""


@dataclass(frozen=True)
class Bypass:
    """A pass that an attack takes a smoother way through: almost all of h is raw, and T is 1."""


class Nonlinearity(nn.Module):
    """M(z) = s·|u|^p·sign(u) with u = GELU(LN(z) + c); LN over the classes, unbiased, without an affine.

    s = p = 1 and c = 0 until they are fitted (`calibration.mixednuts.fit_nonlinearity`).
    """

    scale: Tensor
    power: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("power", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K) → (B, K)."""
        return transformed(logits, self.scale, self.power, self.bias)


def transformed(logits: Tensor, scale: Tensor, power: Tensor, bias: Tensor) -> Tensor:
    """M of logits (B, K); its gradient is finite wherever that of its terms is."""
    centred = logits - logits.mean(1, keepdim=True)
    # Written out: a variance's own gradient is NaN where all classes have one logit.
    count = logits.shape[1] - 1
    normed = centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + 1e-8)
    u = F.gelu(normed + bias)
    return scale * u.abs().clamp_min(1e-12).pow(power) * u.sign()


def mixed_log(standard: Tensor, robust: Tensor, alpha: Tensor) -> Tensor:
    """log of (1-α)·p_standard + α·p_robust from the logarithms of both, (B, K) each; α (B, 1) or (1, 1).

    It never goes through p itself, which may be 0 in floating point.
    """
    return torch.logaddexp(torch.log1p(-alpha) + standard, torch.log(alpha) + robust)


def alpha_of(level: Tensor) -> Tensor:
    """The dial's λ in [0, 1] → α: 0 to ½ over the dial's first tenth, then ½ to 1, so that nothing jumps at g."""
    return torch.where(level < FIRST, level * (0.5 / FIRST), 1 - (1 - level) * (0.5 / (1 - FIRST)))


def mixed(x: Tensor, at: Resolved, ends: Ends, nonlinearity: nn.Module, temperature: float) -> Tensor:
    """(B, K) log p at the point's `robustness`, each row through only the networks that it needs.

    Under export every row takes both, so that the graph is one for all settings.
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
    halves = []
    for rows, part in (((alpha < 1)[:, 0], standard), ((alpha > 0)[:, 0], robust)):
        place = rows.nonzero()[:, 0]
        found = part(x[place], at.only(place))
        # What a row does not run has weight 0, so that any finite value stands for it.
        halves.append(found.new_zeros(len(x), found.shape[1]).index_copy(0, place, found))
    return mixed_log(halves[0], halves[1], alpha)
