"""Attacks as functions (objective of images) → images; see `pgd` and `objective`."""

from rheostat.attacks.base import Attack, named
from rheostat.attacks.multi_exit import Candidates
from rheostat.attacks.objective import LOSSES, Objective, loss_named, objective_of
from rheostat.attacks.pgd import fgsm, n_fgsm, project, training_step_size

__all__ = [
    "LOSSES",
    "Attack",
    "Candidates",
    "Objective",
    "fgsm",
    "loss_named",
    "n_fgsm",
    "named",
    "objective_of",
    "project",
    "training_step_size",
]
