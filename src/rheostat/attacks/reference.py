"""pyautoattack's attacks on an objective: they are the reference implementations, used as they are.

`apgd`, `square` and `autoattack` only translate; here is what they share.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rheostat.attacks.base import Attack, AttackKind
from rheostat.attacks.budget import Streams
from rheostat.attacks.objective import Objective

NAMES = {"linf": "Linf", "l2": "L2"}
LEAST_CLASSES = 4
"""Below, DLR towards a target is not defined."""


class Predict:
    """What pyautoattack calls: images → logits, for any subset of the batch.

    Where logits tie, Square asks for none of the images: then no pass is made, for many modules cannot take none.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.classes = 0

    def __call__(self, images: Tensor) -> Tensor:
        if not len(images) and self.classes:
            return images.new_zeros(0, self.classes)
        logits = self.objective.forward(images, None)
        self.classes = logits.shape[1]
        if images.requires_grad and not logits.requires_grad:  # a module that cuts its graph: a gradient of 0
            logits = logits + 0 * images.flatten(1).sum(1, keepdim=True)
        return logits


def labels_of(objective: Objective) -> Tensor:
    """The labels of the objective's own rows."""
    return objective.labels if objective.rows is None else objective.labels[objective.rows]


def seed_from(generator: Streams) -> int:
    """The seed of a stream, or of the first of several; 0 without one."""
    one = generator[0] if isinstance(generator, Sequence) else generator
    return 0 if one is None else one.initial_seed()


class Reference(AttackKind):
    """What these attacks share: rows of a batch are mixed, losses and steps are their own."""

    rowwise = False
    trains = False
    uses = ()

    def step_size(self, attack: Attack) -> float:
        return 2 * attack.eps
