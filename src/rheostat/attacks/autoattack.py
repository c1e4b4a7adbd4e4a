"""pyautoattack's APGD and Square (Croce & Hein 2020; Andriushchenko et al. 2020) on an objective.

They are the reference implementations, used as they are: this file only translates.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from rheostat.attacks.objective import Objective

NAMES = {"linf": "Linf", "l2": "L2"}
LEAST_CLASSES = 4
"""Below, DLR towards a target is not defined."""


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
    options = {
        "n_iter": steps,
        "norm": NAMES[norm],
        "eps": eps,
        "seed": seed % 2**31,
        "device": images.device,
        "n_restarts": restarts,
    }
    with torch.random.fork_rng(), torch.enable_grad():
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


def square(
    objective: Objective, images: Tensor, *, eps: float, norm: str = "linf", queries: int = 1000, seed: int = 0
) -> Tensor:
    """Square: random search on the margin, without gradients; a check on masked ones."""
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(
        _Predict(objective),
        norm=NAMES[norm],
        n_queries=queries,
        eps=eps,
        p_init=0.8,
        n_restarts=1,
        seed=seed % 2**31,
        verbose=False,
        device=images.device,
        resc_schedule=False,
    )
    with torch.random.fork_rng(), torch.no_grad():
        return attack.perturb(images, _labels(objective)).detach()


def autoattack(objective: Objective, images: Tensor, *, eps: float, norm: str = "linf", seed: int = 0) -> Tensor:
    """AutoAttack, standard version: APGD-CE, targeted APGD-DLR, targeted FAB, Square of 5 000 queries.

    With fewer than 4 classes: APGD-CE, FAB and Square, for there targeted losses are not defined.
    Its state file is not used: a killed run continues at the last whole chunk, whose images have been
    judged again, while a restored state knows bits alone.
    """
    from pyautoattack import AutoAttack

    predict = _Predict(objective)
    with torch.no_grad():
        classes = predict(images[:1]).shape[1]
    few = classes < LEAST_CLASSES
    attack = AutoAttack(
        predict,
        norm=NAMES[norm],
        eps=eps,
        seed=seed % 2**31,
        device=images.device,
        version="custom" if few else "standard",
        attacks=["apgd-ce", "fab", "square"] if few else None,
    )
    if not few:
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    with torch.random.fork_rng(), torch.enable_grad(), _tamed():
        found, _ = attack.run_standard_evaluation(images, _labels(objective), batch_size=len(images))
    return found.detach()


@contextlib.contextmanager
def _tamed() -> Iterator[None]:
    """AutoAttack's checks take the interpreter's trace hook away, and log; both are put back.

    What its checks look for, `evaluation.checks` looks for by itself and says in the rows.
    """
    hook, logger = sys.gettrace(), logging.getLogger("auto-attack")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.settrace(hook)
