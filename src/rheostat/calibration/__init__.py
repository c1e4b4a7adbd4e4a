"""Fits after training, on held-out images: the dial, exit thresholds, norm statistics, temperatures."""

from rheostat.calibration.after_training import Fitting, fittings
from rheostat.calibration.dial import calibrate_dial
from rheostat.calibration.exit_policy import anytime, fit_policy
from rheostat.calibration.segment import calibrate_segment
from rheostat.calibration.statistics import calibrate_norms
from rheostat.calibration.temperature import fit_temperature
from rheostat.runtime.registry import import_files

import_files(__name__, __path__)

__all__ = [
    "Fitting",
    "anytime",
    "calibrate_dial",
    "calibrate_norms",
    "calibrate_segment",
    "fit_policy",
    "fit_temperature",
    "fittings",
]
