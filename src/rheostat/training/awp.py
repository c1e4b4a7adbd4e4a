"""Adversarial weight perturbation (Wu et al., NeurIPS 2020): the gradient is taken at adversarial weights.

Before the pass of a step, each layer's weights move along the gradient of the loss on attacked images, by `gamma`
times the layer's norm. They are restored bit for bit before the optimiser step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

Moved = list[tuple[nn.Parameter, Tensor]]
"""Moved parameters with their previous values."""


@torch.no_grad()
def perturb(parameters: Iterable[nn.Parameter], gamma: float) -> Moved:
    """Move every weight of two or more dimensions along its gradient; return the previous values.

    Biases, norms and scalars do not move, as in the paper, nor does a layer whose gradient is zero.
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
    """Restore the previous weights."""
    for parameter, before in moved:
        parameter.copy_(before)
