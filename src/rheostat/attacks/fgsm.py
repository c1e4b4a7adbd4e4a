"""FGSM, one step from the image, and MI-FGSM, ten steps along the accumulated gradient.

Sources: Goodfellow et al., ICLR 2015; Dong et al., CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from rheostat.attacks.base import Attack, TierEntry, register
from rheostat.attacks.objective import Objective
from rheostat.attacks.pgd import Climbing, pgd


def fgsm(objective: Objective, images: Tensor, *, eps: float, norm: str = "linf") -> Tensor:
    """One step of size eps (units of [0, 1]) from the clean image; (B, C, H, W) → (B, C, H, W)."""
    return pgd(objective, images, eps=eps, steps=1, step_size=eps, norm=norm, start=False)


@register
class FGSM(Climbing):
    """`fgsm`: one step of size eps from the clean image."""

    name = "fgsm"
    grammar = ("fgsm",)
    uses = ("loss",)
    defaults: ClassVar[Mapping[str, object]] = {"steps": 1, "start": False}
    tiers = (TierEntry("fgsm", order=20, tiers=("standard", "full")),)

    def check(self, attack: Attack) -> None:
        if attack.steps != 1:
            raise ValueError(f"fgsm takes exactly 1 step, given {attack.steps}; use 'pgd' for more")

    def step_size(self, attack: Attack) -> float:
        return attack.eps


@register
class MIFGSM(Climbing):
    """`mi-fgsm`: 10 steps from the clean image with momentum 1."""

    name = "mi-fgsm"
    grammar = ("mi-fgsm",)
    defaults: ClassVar[Mapping[str, object]] = {"steps": 10, "start": False, "momentum": 1.0}
    tiers = (TierEntry("mi-fgsm", order=30, tiers=("standard", "full")),)
