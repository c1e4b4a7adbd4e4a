"""The kind of a pass: an argument of the pass, never module state."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """EVAL is an evaluation. ATTACK makes the adversarial images of a training step: it uses running statistics, but
    the norm set and mask path of training. TRAIN normalises by the statistics of its own rows."""

    EVAL = "eval"
    ATTACK = "attack"
    TRAIN = "train"
