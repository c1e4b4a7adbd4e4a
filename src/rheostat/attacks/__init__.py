"""Attacks, one per file: (objective, images) → adversarial images; `named("pgd20", eps=8/255)` builds one by name."""

from rheostat.attacks.base import ATTACKS, Attack, AttackKind, TierEntry, named, register
from rheostat.attacks.budget import NORMS, project, training_step_size
from rheostat.attacks.multi_exit import Candidates
from rheostat.attacks.objective import LOSSES, Objective, loss_named, objective_of
from rheostat.runtime.registry import import_files

import_files(__name__, __path__)

__all__ = [
    "ATTACKS",
    "LOSSES",
    "NORMS",
    "Attack",
    "AttackKind",
    "Candidates",
    "Objective",
    "TierEntry",
    "loss_named",
    "named",
    "objective_of",
    "project",
    "register",
    "training_step_size",
]
