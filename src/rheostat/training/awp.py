"""Adversarial weight perturbation (Wu et al., NeurIPS 2020): the gradient is taken at worse weights.

Before the pass of a step the weights move against it: layer by layer along the gradient of the loss on
attacked images, by `gamma` times the layer's own norm. They are put back, to the bit, before the
optimiser steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

Moved = list[tuple[nn.Parameter, Tensor]]
"""What was moved, and what it was before."""


@torch.no_grad()
def perturb(parameters: Iterable[nn.Parameter], gamma: float) -> Moved:
    """Move every weight of two or more dimensions along its gradient; returns what to restore.

    Biases, norms and scalars stay, as in the paper. A layer whose gradient is zero stays.
    """
    moved: Moved = []
    for parameter in parameters:
        if parameter.ndim < 2 or parameter.grad is None:
            continue
        size = parameter.grad.norm()
        if size > 0:
            moved.append((parameter, parameter.detach().clone()))
            parameter.add_(parameter.grad * (gamma * parameter.norm() / size))
    return moved


@torch.no_grad()
def restore(moved: Moved) -> None:
    """Put the weights back where they were."""
    for parameter, before in moved:
        parameter.copy_(before)
