"""What kind of pass a pass is: an argument of the pass, never the state of a module."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """EVAL judges. ATTACK makes the images of a training step: running statistics, but the norm set and
    the mask path that training takes. TRAIN normalises by the statistics of its own rows."""

    EVAL = "eval"
    ATTACK = "attack"
    TRAIN = "train"
