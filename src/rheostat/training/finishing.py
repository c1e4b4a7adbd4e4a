"""After the last step: save the model, then calibrate it and save it again, so that no training is lost."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rheostat.attacks import Attack
from rheostat.calibration import fittings
from rheostat.calibration.dial import IMAGES, calibrate_dial
from rheostat.calibration.exit_policy import LIMITS, fit_policy
from rheostat.data import Dataset
from rheostat.data.splits import subset
from rheostat.models import artifact
from rheostat.models.hashing import as_loaded
from rheostat.models.tunable import Tunable
from rheostat.points.dial_map import DialMap
from rheostat.points.point import Point
from rheostat.runtime.files import read_tensors
from rheostat.runtime.interrupts import Interrupted, breakable
from rheostat.runtime.precision import full_precision
from rheostat.training.checkpoint import Progress
from rheostat.training.run import Report
from rheostat.training.settings import Settings

PENDING = "pending"
FAILED = "calibration-failed"


@dataclass(frozen=True)
class Ending:
    """The inputs for finishing a run after its last step.

    `fit` holds the validation images, on the device; `about` is the description in the model's file without what the
    training adds; `writes` says whether this rank writes files.
    """

    model: Tunable
    settings: Settings
    fit: Dataset
    folder: Path
    about: artifact.About
    writes: bool
    report: Report | None

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.folder / "model.safetensors"

    def described(self, progress: Progress, calibration: str) -> artifact.About:
        """The description for the model's file; `calibration` is "done", "pending" or why it failed."""
        added = {
            "seconds": round(progress.seconds, 1),
            "best_epoch": progress.best_epoch,
            "flags": progress.flags,
            "calibration": calibration,
            "versions": artifact.versions(),
        }
        return replace(self.about, provenance={**self.about.provenance, **added})

    def tell(self, event: str, why: str, message: str, kind: type[Warning] = UserWarning) -> None:
        """Report an event; without a `report` function, warn instead."""
        if not self.writes:
            return
        if self.report is not None:
            self.report({"event": event, "why": why, "model": str(self.path)})
        else:
            warnings.warn(message, kind, stacklevel=5)


def finish(ending: Ending, progress: Progress) -> artifact.About:
    """Save the model, calibrate its dial and its exit policy as the settings ask, and save it again.

    If a calibration fails, the file gets the flag `calibration-failed`, an event is reported, and the model stays
    unchanged. Raises Interrupted after Ctrl-C or SIGTERM during a calibration: the model is saved, and the same command
    continues. A network that no file can rebuild stays only in the checkpoint: an event says so, and the file of an
    older run is deleted.
    """
    unsaved = _saved(ending, ending.described(progress, PENDING))
    try:
        with breakable():
            problems = _calibrated(ending)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped while calibrating; {ending.path} keeps the trained model, and the same command continues"
        ) from None
    if problems:
        progress.flags = sorted({*progress.flags, FAILED})
    why = "; ".join(problems)
    about = ending.described(progress, why or "done")
    if unsaved:
        if ending.writes:
            ending.path.unlink(missing_ok=True)  # an older run's, which would pass for this one's
        kept = ending.folder / "checkpoint.safetensors"
        message = f"no model file is written ({unsaved}); {kept} holds the weights"
        ending.tell("not-saved", unsaved, message, RuntimeWarning)
    else:
        _saved(ending, about)
    if problems:
        scale = "; its dial is λ" if any(p.startswith("dial") for p in problems) else ""
        ending.tell(FAILED, why + scale, f"not calibrated, the model is kept as trained: {why}{scale}")
    return about


def _saved(ending: Ending, about: artifact.About) -> str:
    """Write the model's file; return why that is impossible, or an empty text."""
    try:
        if ending.writes:
            artifact.save(ending.path, ending.model, about)
    except ValueError as problem:
        return str(problem)
    return ""


@full_precision()
def _calibrated(ending: Ending) -> list[str]:
    """Run the calibrations that the settings ask for; return the failures in words."""
    model, settings, fit = ending.model, ending.settings, ending.fit
    attack = Attack("pgd", settings.attack.eps, 10, norm=settings.attack.norm)
    held_out = subset(fit, IMAGES)  # for the steps before the dial too
    wanted: list[tuple[str, Callable[[], object]]] = [
        (f.what, functools.partial(f.fit, model, held_out, attack)) for f in fittings(model)
    ]
    if settings.calibrate_dial:
        wanted.append(("dial", lambda: _dial(ending, held_out, attack)))
    if "exit" in model.dials:
        policy = settings.policy
        limit = LIMITS.get(policy.rule)
        # fit_policy refuses the limit of another rule; check_settings has already warned about it.
        limits = {} if limit is None else {limit: getattr(policy, limit)}
        wanted.append(("exit policy", lambda: fit_policy(model, fit, rule=policy.rule, **limits)))
    problems = []
    for what, calibrate in wanted:
        try:
            calibrate()
        except ValueError as error:
            problems.append(f"{what}: {error}")
    return problems


def _dial(ending: Ending, held_out: Dataset, attack: Attack) -> None:
    """Calibrate the dial with attacks in the precision of the training, and report on how many images RA rests."""
    precision = ending.settings.device.precision
    knots = calibrate_dial(ending.model, held_out, attack, precision=precision)
    if ending.writes and ending.report is not None:
        best = max(knots, key=lambda knot: knot.robust)
        ending.report(
            {
                "event": "dial",
                "places": len(knots),
                "images": best.n,
                "robust_accuracy": [knots[0].robust, best.robust],
                "interval": list(best.interval),
            }
        )


def refilled(model: Tunable, path: Path, same: Callable[[Mapping[str, Any]], bool]) -> artifact.About | None:
    """Restore a model from the file of a finished run; if there is none, return None and leave the model unchanged.

    The file is used if `same(provenance)` holds and its calibration is over. Named points and temperatures are
    restored too.
    """
    if not path.is_file():
        return None
    try:
        tensors, found = read_tensors(path)
        provenance = found["provenance"]
        if found["artifact"] != artifact.FORMAT or provenance.get("calibration") == PENDING or not same(provenance):
            return None
        stored = model.stored()
        model.load_state_dict({k: v for k, v in model.state_dict().items() if k not in stored} | tensors)
        model.points = {k: model.complete(Point(**v)) for k, v in found["points"].items()}
    except (ValueError, KeyError, RuntimeError):  # from another version, or incomplete: it is written again
        return None
    dial_map = found["dial_map"]
    model.dial_map = None if dial_map is None else DialMap(**{k: tuple(v) for k, v in dial_map.items()})
    measured = found["measured"]
    model.temperatures = {k: float(v["temperature"]) for k, v in measured.items() if "temperature" in v}
    preprocessing = artifact.preprocessing_of(found, model, str(path))
    model.origin = as_loaded(model, found, measured)
    return artifact.About(tuple(found["classes"]), found["threat"], provenance, measured, preprocessing)
