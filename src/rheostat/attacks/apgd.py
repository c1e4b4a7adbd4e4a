"""Auto-PGD, by CE or by the targeted DLR loss. Source: Croce & Hein, ICML 2020; pyautoattack's own code."""

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
    targeted: bool = False,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD: CE, or with `targeted` the DLR loss towards up to 9 other classes in turn.

    The objective must be of one setting for all rows (a point without per-example values). The
    targeted loss needs at least 4 classes: ValueError otherwise.
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
    }
    with torch.random.fork_rng(), torch.enable_grad(), warnings.catch_warnings():
        # Of dead gradients `evaluation.checks` warns by itself, in the rows.
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
    """What the two forms of Auto-PGD share: 100 steps, of which the first is 2·eps; it halves them by itself."""

    targeted: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, object]] = {"steps": 100}
    lowers = True

    def finish(self, attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
        """By PGD on the same loss, towards any class, with PGD's step of as many steps: Auto-PGD's own end small."""
        size = 2.5 * attack.eps / attack.steps
        steps = attack.last_steps
        return pgd(
            objective,
            images,
            eps=attack.eps,
            steps=steps,
            step_size=size,
            norm=attack.norm,
            start=moved - images,
            drop=objective.decisive,
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
