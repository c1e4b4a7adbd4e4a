"""What is fitted after training, on held-out images: the dial, exit thresholds, temperatures."""

from rheostat.calibration.dial import calibrate_dial, calibrate_norms
from rheostat.calibration.exit_policy import anytime, fit_policy
from rheostat.calibration.temperature import fit_temperature

__all__ = ["anytime", "calibrate_dial", "calibrate_norms", "fit_policy", "fit_temperature"]
