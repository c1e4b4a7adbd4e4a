"""AutoAttack, the standard ensemble. Source: Croce & Hein, ICML 2020; runs pyautoattack's code."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from rheostat.attacks.base import Attack, TierEntry, register
from rheostat.attacks.budget import Streams
from rheostat.attacks.objective import Objective
from rheostat.attacks.reference import LEAST_CLASSES, NAMES, Predict, Reference, labels_of, seed_from
from rheostat.attacks.square import check_tiles


def autoattack(objective: Objective, images: Tensor, *, eps: float, norm: str = "linf", seed: int = 0) -> Tensor:
    """AutoAttack, standard version: APGD-CE, targeted APGD-DLR, targeted FAB, Square with 5 000 queries.

    Images (B, C, H, W) → (B, C, H, W); `eps` is in units of [0, 1]. With fewer than 4 classes the targeted
    losses are undefined, and only APGD-CE, FAB and Square run. AutoAttack's state file is not used, because
    it stores only which images are robust, not the adversarial images. A killed run continues after its
    last complete chunk, whose adversarial images were classified again.
    """
    from pyautoattack import AutoAttack

    predict = Predict(objective)
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
        found, _ = attack.run_standard_evaluation(images, labels_of(objective), batch_size=len(images))
    return found.detach()


@contextlib.contextmanager
def _tamed() -> Iterator[None]:
    """Silence AutoAttack's checks, which log and remove the interpreter's trace hook; restore both afterwards.

    `evaluation.checks` makes the same checks and records them in the rows.
    """
    hook, logger = sys.gettrace(), logging.getLogger("auto-attack")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.settrace(hook)


@register
class AutoAttackStandard(Reference):
    """`autoattack`: APGD-CE, APGD-T, FAB-T and Square (5 000 queries); each runs only on images not yet fooled."""

    name = "autoattack"
    grammar = ("autoattack",)
    defaults: ClassVar[Mapping[str, object]] = {"steps": 100}
    tiers = (TierEntry("autoattack", order=70, tiers=("full",)),)

    def check_size(self, attack: Attack, height: int, width: int) -> None:
        check_tiles(attack.norm, height, width, name=self.name)

    def run(
        self,
        attack: Attack,
        objective: Objective,
        images: Tensor,
        generator: Streams,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        return autoattack(objective, images, eps=attack.eps, norm=attack.norm, seed=seed_from(generator))
