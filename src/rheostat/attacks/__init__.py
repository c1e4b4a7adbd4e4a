"""Attacks as functions (objective of images) → images; see `pgd` and `objective`."""

from rheostat.attacks.exits import Candidates
from rheostat.attacks.objective import LOSSES, Objective, loss_named, objective_of
from rheostat.attacks.pgd import fgsm, n_fgsm, pgd, project, training_step_size
from rheostat.attacks.spec import Attack, named

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
    "pgd",
    "project",
    "training_step_size",
]
