"""Rheostat: train one classifier; dial accuracy, adversarial robustness and compute at inference.

>>> import rheostat
>>> model = rheostat.load("oat-digits")
>>> safe = model.at(robustness=1.0)      # a plain nn.Module, pixels in [0, 1] → logits
"""

from rheostat.adopt import adopt
from rheostat.artifact import load, save
from rheostat.calibrate import calibrate_dial, calibrate_norms
from rheostat.costs import observe
from rheostat.evaluate import evaluate
from rheostat.fold import fold
from rheostat.papers import compose
from rheostat.points import Dial, Point
from rheostat.policy import fit_policy
from rheostat.recipe import Recipe, load_recipe
from rheostat.train import train
from rheostat.tunable import Tunable

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
