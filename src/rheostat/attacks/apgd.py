"""Auto-PGD with CE or the targeted DLR loss. Source: Croce & Hein, ICML 2020; runs pyautoattack's code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from rheostat.attacks.base import Attack, TierEntry, register
from rheostat.attacks.budget import Streams
from rheostat.attacks.objective import Objective
from rheostat.attacks.pgd import pgd
from rheostat.attacks.reference import LEAST_CLASSES, NAMES, Predict, Reference, labels_of, seed_from


def apgd(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    eot: int = 1,
    targeted: bool = False,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD, images (B, C, H, W) → (B, C, H, W). `targeted` replaces CE by DLR towards up to 9 classes in turn.

    `eps` is in units of [0, 1]. Gradients are averages over `eot` passes. All rows of the objective must share one
    setting (a point without per-example values). Raises ValueError if `targeted` is set and the model has fewer than 4
    classes.
    """
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    labels = labels_of(objective)
    predict = Predict(objective)
    options = {
        "n_iter": steps,
        "norm": NAMES[norm],
        "eps": eps,
        "seed": seed % 2**31,
        "device": images.device,
        "n_restarts": restarts,
        "eot_iter": eot,
    }
    with torch.random.fork_rng(), torch.enable_grad(), warnings.catch_warnings():
        # `evaluation.checks` reports zero gradients itself, in the rows.
        warnings.filterwarnings("ignore", message="there are .* points with zero gradient")
        if not targeted:
            return APGDAttack(predict, loss="ce", **options).perturb(images, labels).detach()
        with torch.no_grad():
            classes = predict(images[:1]).shape[1]
        if classes < LEAST_CLASSES:
            raise ValueError(
                f"the targeted DLR loss needs at least {LEAST_CLASSES} classes, this model has {classes}; "
                "use apgd-ce and square"
            )
        attack = APGDAttack_targeted(predict, n_target_classes=min(9, classes - 1), **options)
        return attack.perturb(images, labels).detach()


class Auto(Reference):
    """Base of both forms of Auto-PGD: 100 steps; the step size starts at 2·eps and the attack halves it itself."""

    targeted: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, object]] = {"steps": 100}
    honours = ("steps", "restarts", "eot")
    lowers = True

    def finish(self, attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
        """Attack rows that failed in bf16 again with a quarter of the steps; the others climb on by plain PGD.

        Auto-PGD returns the clean image where it fails. The others are at the boundary, which PGD with its default
        step size on the same loss reaches; Auto-PGD cannot start there with steps as small as its last ones.
        """
        found = moved.clone()
        failed = (moved == images).flatten(1).all(1)
        for rows, climb in ((failed, self._again), (~failed, _onwards)):
            chosen = rows.nonzero()[:, 0]
            if len(chosen):
                found[chosen] = climb(attack, objective.only(chosen), images[chosen], moved[chosen])
        return found

    def _again(self, attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
        return apgd(
            objective,
            images,
            eps=attack.eps,
            norm=attack.norm,
            steps=attack.last_steps,
            eot=attack.eot,
            targeted=self.targeted,
        )

    def run(
        self,
        attack: Attack,
        objective: Objective,
        images: Tensor,
        generator: Streams,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        return apgd(
            objective,
            images,
            eps=attack.eps,
            norm=attack.norm,
            steps=attack.steps,
            restarts=attack.restarts,
            eot=attack.eot,
            targeted=self.targeted,
            seed=seed_from(generator),
        )


def _onwards(attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
    """The last steps of untargeted PGD from `moved`."""
    return pgd(
        objective,
        images,
        eps=attack.eps,
        steps=attack.last_steps,
        step_size=2.5 * attack.eps / attack.steps,
        norm=attack.norm,
        start=moved - images,
        drop=objective.decisive,
    )


@register
class AutoCE(Auto):
    """`apgd-ce`: Auto-PGD on cross-entropy, 100 steps."""

    name = "apgd-ce"
    grammar = ("apgd-ce",)
    tiers = (TierEntry("apgd-ce", order=40, tiers=("standard", "full")),)


@register
class AutoTargeted(Auto):
    """`apgd-t`: Auto-PGD on the targeted DLR loss, 100 steps for each of up to 9 other classes."""

    name = "apgd-t"
    grammar = ("apgd-t",)
    targeted = True
    defaults: ClassVar[Mapping[str, object]] = {"steps": 100, "loss": "dlr"}
    tiers = (TierEntry("apgd-t", order=50, tiers=("standard", "full"), few_classes="pgd100-margin"),)
