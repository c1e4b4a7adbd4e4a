"""TRADES (Zhang et al., ICML 2019): robust training by the divergence between two predictions.

An adversarial row has the loss CE(f(x), y) + β·KL(p(x) ‖ p(x')), and its attack maximises the divergence instead of
the cross-entropy. Both images go through one pass at the same operating point, so the batch statistics cover both.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.attacks.objective import Objective, predicted


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) ‖ softmax(logits)) per row: two (n, K) → (n,)."""
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


def away_from(objective: Objective, images: Tensor) -> Objective:
    """The objective whose loss is the divergence from its own predictions on `images` (n, C, H, W)."""
    with torch.no_grad():
        reference = objective.forward(images, objective.rows)
    forward = objective.forward

    def pairs(moved: Tensor, rows: Tensor | None) -> Tensor:
        beside = reference if rows is None else reference[rows]
        return torch.stack((forward(moved, rows), beside), 1)

    return replace(
        objective,
        forward=pairs,
        loss=lambda pair, labels: divergence(pair[:, 0], pair[:, 1]),
        decide=lambda pair: predicted(pair[:, 0]),
    )
