"""A user's function as the training attack; its images are checked like those of built-in attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rheostat.attacks import Attack, Candidates, Objective
from rheostat.attacks.budget import per_row

Function = Callable[[Objective, Tensor, torch.Generator], Tensor]
"""(objective, images (n, C, H, W), generator) → adversarial images; `objective(images)` is the loss of each row."""
SLACK = 1e-4
"""Rounding tolerance beyond the ball, in units of [0, 1] (for L2 multiplied by the radius)."""


@dataclass(frozen=True)
class OwnAttack:
    """A function as the training attack, with the ball that its images must stay in."""

    function: Function
    eps: float
    norm: str = "linf"
    loss: str = "ce"

    def __call__(
        self,
        objective: Objective | Candidates,
        images: Tensor,
        generator: torch.Generator,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """The function's images; ValueError if they have another shape, or leave [0, 1] or the ball."""
        if isinstance(objective, Candidates):
            return objective.best([self(o, images, generator, share=share) for o in objective.objectives])
        moved = self.function(objective, images, generator).detach()
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if moved.shape != images.shape:
            raise ValueError(f"attack {name} returned images {tuple(moved.shape)}, expected {tuple(images.shape)}")
        if not bool(((moved >= 0) & (moved <= 1)).all()):
            raise ValueError(f"attack {name} returned pixels outside [0, 1]; end it with .clamp(0, 1)")
        delta = moved - images
        size = float((delta.abs() if self.norm == "linf" else per_row(delta)).max()) if len(delta) else 0.0
        if size > self.eps * (1 + SLACK) + SLACK * (self.norm == "linf"):
            raise ValueError(f"attack {name} moved an image by {size:g} ({self.norm}), more than eps {self.eps:g}")
        return moved


def as_training_attack(given: Attack | Function, *, eps: float, norm: str) -> Attack | OwnAttack:
    """Wrap a function, or return an `Attack` that never drops rows, so that all training steps cost the same."""
    if isinstance(given, Attack):
        return replace(given, drop=False)
    return OwnAttack(given, eps, norm)
