"""Rheostat: train one classifier; dial accuracy, adversarial robustness and compute at inference.

>>> import rheostat
>>> model = rheostat.load("oat-digits")
>>> safe = model.at(robustness=1.0)      # a plain nn.Module, pixels in [0, 1] → logits
"""

from rheostat.calibration.dial import calibrate_dial, calibrate_norms
from rheostat.calibration.exit_policy import fit_policy
from rheostat.evaluation.evaluator import evaluate
from rheostat.methods.composition import compose
from rheostat.models.adoption import adopt
from rheostat.models.artifact import load, save
from rheostat.models.costs import observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.dial import Dial
from rheostat.points.point import Point
from rheostat.training.loop import train
from rheostat.training.recipe import Recipe, load_recipe

__version__ = "0.1.0"

__all__ = [
    "Dial",
    "Point",
    "Recipe",
    "Tunable",
    "__version__",
    "adopt",
    "calibrate_dial",
    "calibrate_norms",
    "compose",
    "evaluate",
    "fit_policy",
    "fold",
    "load",
    "load_recipe",
    "observe",
    "save",
    "train",
]
