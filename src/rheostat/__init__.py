"""Rheostat: train one classifier; dial accuracy, adversarial robustness and compute at inference.

>>> import rheostat
>>> model = rheostat.load("oat-digits")
>>> safe = model.at(robustness=1.0)      # a plain nn.Module, pixels in [0, 1] → logits
"""

from rheostat.attacks import Attack
from rheostat.calibration import calibrate_dial, calibrate_norms, fit_policy
from rheostat.deploy import Need, choose, export
from rheostat.evaluation import EvaluationOptions, evaluate
from rheostat.methods import Stack, compose
from rheostat.models import Tunable, adopt, fold, load, observe, push_to_hub, save
from rheostat.points import Dial, Point
from rheostat.reports import plot
from rheostat.results import read_rows
from rheostat.training import (
    Callback,
    EarlyStop,
    FitOptions,
    Recipe,
    TensorBoard,
    fit,
    load_recipe,
    train,
    training_step,
)

__version__ = "0.2.0"

__all__ = [
    "Attack",
    "Callback",
    "Dial",
    "EarlyStop",
    "EvaluationOptions",
    "FitOptions",
    "Need",
    "Point",
    "Recipe",
    "Stack",
    "TensorBoard",
    "Tunable",
    "__version__",
    "adopt",
    "calibrate_dial",
    "calibrate_norms",
    "choose",
    "compose",
    "evaluate",
    "export",
    "fit",
    "fit_policy",
    "fold",
    "load",
    "load_recipe",
    "observe",
    "plot",
    "push_to_hub",
    "read_rows",
    "save",
    "train",
    "training_step",
]


def __dir__() -> list[str]:
    """The public names, and `data`; the other rooms are imported by their names."""
    return sorted([*__all__, "data"])
