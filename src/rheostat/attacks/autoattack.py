"""pyautoattack's APGD and Square (Croce & Hein 2020; Andriushchenko et al. 2020) on an objective.

They are the reference implementations, used as they are: this file only translates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.attacks.objective import Objective

NAMES = {"linf": "Linf", "l2": "L2"}


class _Predict:
    """What pyautoattack calls: images → logits, for any subset of the batch."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, images: Tensor) -> Tensor:
        return self.objective.forward(images, None)


def _labels(objective: Objective) -> Tensor:
    return objective.labels if objective.rows is None else objective.labels[objective.rows]


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

    labels = _labels(objective)
    predict = _Predict(objective)
    options = {"n_iter": steps, "norm": NAMES[norm], "eps": eps, "seed": seed % 2**31,
               "device": images.device, "n_restarts": restarts}  # fmt: skip
    with torch.random.fork_rng(), torch.enable_grad():
        if not targeted:
            return APGDAttack(predict, loss="ce", **options).perturb(images, labels).detach()
        with torch.no_grad():
            classes = predict(images[:1]).shape[1]
        if classes < 4:
            raise ValueError(
                f"the targeted DLR loss needs at least 4 classes, this model has {classes}; "
                "use apgd-ce and square"
            )
        attack = APGDAttack_targeted(predict, n_target_classes=min(9, classes - 1), **options)
        return attack.perturb(images, labels).detach()


def square(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    queries: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Square: random search on the margin, without gradients; a check on masked ones."""
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(
        _Predict(objective), norm=NAMES[norm], n_queries=queries, eps=eps, p_init=0.8,
        n_restarts=1, seed=seed % 2**31, verbose=False, device=images.device, resc_schedule=False,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        return attack.perturb(images, _labels(objective)).detach()
