"""Finished models: Tunable, adoption of other networks, folding, model files, costs."""

from rheostat.models.adoption import adopt
from rheostat.models.artifact import About, load, save
from rheostat.models.costs import exit_costs, latency, observe
from rheostat.models.folding import fold
from rheostat.models.hub import push_to_hub
from rheostat.models.tunable import AtPoint, Tunable

__all__ = [
    "About",
    "AtPoint",
    "Tunable",
    "adopt",
    "exit_costs",
    "fold",
    "latency",
    "load",
    "observe",
    "push_to_hub",
    "save",
]
