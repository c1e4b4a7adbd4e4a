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
        """Run untargeted PGD on the same loss, with PGD's default step size: Auto-PGD's last steps are too small.

        Auto-PGD returns the clean image where it fails. From there the steps are large enough to cross the ball.
        """
        found, steps = moved.clone(), attack.last_steps
        failed = (moved == images).flatten(1).all(1)
        for rows, count in ((~failed, attack.steps), (failed, steps)):
            chosen = rows.nonzero()[:, 0]
            if len(chosen):
                found[chosen] = pgd(
                    objective.only(chosen),
                    images[chosen],
                    eps=attack.eps,
                    steps=steps,
                    step_size=2.5 * attack.eps / count,
                    norm=attack.norm,
                    start=(moved - images)[chosen],
                    drop=objective.decisive,
                )
        return found

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
