"""N-FGSM: one step from a noisy image, for training only. Source: de Jorge et al., NeurIPS 2022."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from rheostat.attacks.base import Attack, AttackKind, register
from rheostat.attacks.budget import Streams, check_budget, random_start
from rheostat.attacks.objective import Objective, gradient


def n_fgsm(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    generator: Streams = None,
    share: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Uniform noise of up to 2·eps, then one sign step of eps; (B, C, H, W) → (B, C, H, W), clipped to [0, 1].

    Use it for training only: δ is not projected onto the ball, so images may be up to 3·eps away.
    """
    check_budget("linf", eps, 1)
    noise = random_start(images, 2 * eps, "linf", generator, share)
    noisy = (images.detach() + noise).clamp(0, 1)
    grad, _, _ = gradient(objective, noisy)
    return (noisy + eps * grad.sign()).clamp(0, 1)


@register
class NFGSM(AttackKind):
    """`n-fgsm` in a recipe. Its images may leave the ball, so an evaluation cannot name it."""

    name = "n-fgsm"
    uses = ("loss",)
    defaults: ClassVar[Mapping[str, object]] = {"steps": 1}

    def parse(self, text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
        return None

    def check(self, attack: Attack) -> None:
        if attack.norm != "linf":
            raise ValueError("n-fgsm is an L∞ attack; norm must be 'linf'")

    def step_size(self, attack: Attack) -> float:
        return attack.eps

    def run(
        self,
        attack: Attack,
        objective: Objective,
        images: Tensor,
        generator: Streams,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        return n_fgsm(objective, images, eps=attack.eps, generator=generator, share=share)
