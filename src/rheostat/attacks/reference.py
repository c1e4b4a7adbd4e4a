"""Shared code of `apgd`, `square` and `autoattack`.

These attacks run the reference implementations of pyautoattack unchanged; they only adapt the interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from rheostat.attacks.base import DEFAULTS, FIXED_DEFAULTS, Attack, AttackKind
from rheostat.attacks.budget import Streams
from rheostat.attacks.objective import Objective

NAMES = {"linf": "Linf", "l2": "L2"}
LEAST_CLASSES = 4
"""The targeted DLR loss is undefined for fewer classes."""


class Predict:
    """The model as pyautoattack calls it: images → logits, for any subset of the batch.

    If logits tie, Square requests an empty batch. No pass is made then, because many modules cannot take one.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.classes = 0

    def __call__(self, images: Tensor) -> Tensor:
        if not len(images) and self.classes:
            return images.new_zeros(0, self.classes)
        logits = self.objective.forward(images, None)
        self.classes = logits.shape[1]
        if images.requires_grad and not logits.requires_grad:  # the module detaches its graph: a gradient of 0
            logits = logits + 0 * images.flatten(1).sum(1, keepdim=True)
        return logits


def labels_of(objective: Objective) -> Tensor:
    """The labels of the objective's rows, (n,)."""
    return objective.labels if objective.rows is None else objective.labels[objective.rows]


def seed_from(generator: Streams) -> int:
    """The seed of a stream, or of the first of several; 0 if there is none."""
    one = generator[0] if isinstance(generator, Sequence) else generator
    return 0 if one is None else one.initial_seed()


class Reference(AttackKind):
    """Base of these attacks: they mix the rows of a batch and set their own losses and steps."""

    rowwise = False
    trains = False
    uses = ()
    honours: ClassVar[tuple[str, ...]] = ()
    """The settings that have an effect on it, beside eps, norm and form."""

    def check(self, attack: Attack) -> None:
        """Raise ValueError for a setting that has no effect, because a row would claim it."""
        fixed = {**FIXED_DEFAULTS, **DEFAULTS, **self.defaults, "step_size": None}
        for setting in sorted(fixed.keys() - {"form", *self.honours}):
            if getattr(attack, setting) != fixed[setting]:
                takes = ", ".join(("eps", "norm", *self.honours))
                raise ValueError(
                    f"{self.name} ignores {setting}, given {getattr(attack, setting)}; leave it out (it takes {takes})"
                )

    def step_size(self, attack: Attack) -> float:
        return 2 * attack.eps
