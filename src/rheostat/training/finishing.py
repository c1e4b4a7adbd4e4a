"""After the last step: the model is saved, then calibrated and saved again, so that nothing is lost."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rheostat.attacks import Attack
from rheostat.calibration import fittings
from rheostat.calibration.dial import calibrate_dial
from rheostat.calibration.exit_policy import fit_policy
from rheostat.data import Dataset
from rheostat.data.splits import subset
from rheostat.models import artifact
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
FITTED_ON = 500
"""Images of calibrate-fit that the dial, and what comes before it, are fitted on."""


@dataclass(frozen=True)
class Ending:
    """What is done with the model of a run after its last step.

    `fit` are the validation images, on the device; `about` is what the model's file says but for what the training
    itself adds; `writes` is whether this rank writes files.
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
        """What the file says beside the weights; `calibration` is "done", "pending" or why it failed."""
        added = {
            "seconds": round(progress.seconds, 1),
            "best_epoch": progress.best_epoch,
            "flags": progress.flags,
            "calibration": calibration,
            "versions": artifact.versions(),
        }
        return replace(self.about, provenance={**self.about.provenance, **added})

    def tell(self, event: str, why: str, message: str, kind: type[Warning] = UserWarning) -> None:
        """Report an event, or warn where nobody listens."""
        if not self.writes:
            return
        if self.report is not None:
            self.report({"event": event, "why": why, "model": str(self.path)})
        else:
            warnings.warn(message, kind, stacklevel=5)


def finish(ending: Ending, progress: Progress) -> artifact.About:
    """Save the model, calibrate its dial and its exit policy as the settings ask, and save it again.

    A calibration that cannot be done is the flag `calibration-failed` in the file, and an event; the
    model stays as it was before. Raises Interrupted after Ctrl-C or SIGTERM in a calibration: the model is saved, and
    the same command goes on. A network that no file can rebuild is kept by the checkpoint alone, which is said.
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
    """Write the model's file; why it cannot be written, where the network says so."""
    try:
        if ending.writes:
            artifact.save(ending.path, ending.model, about)
    except ValueError as problem:
        return str(problem)
    return ""


@full_precision()
def _calibrated(ending: Ending) -> list[str]:
    """Calibrate what the settings ask for; what could not be done, in words."""
    model, settings, fit = ending.model, ending.settings, ending.fit
    attack = Attack("pgd", settings.attack.eps, 10, norm=settings.attack.norm)
    held_out = subset(fit, FITTED_ON)
    wanted: list[tuple[str, Callable[[], object]]] = [
        (f.what, functools.partial(f.fit, model, held_out, attack)) for f in fittings(model)
    ]
    if settings.calibrate_dial:
        wanted.append(("dial", lambda: calibrate_dial(model, held_out, attack)))
    if "exit" in model.dials:
        wanted.append(("exit policy", lambda: fit_policy(model, fit, **settings.policy.model_dump())))
    problems = []
    for what, calibrate in wanted:
        try:
            calibrate()
        except ValueError as error:
            problems.append(f"{what}: {error}")
    return problems


def refilled(model: Tunable, path: Path, same: Callable[[Mapping[str, Any]], bool]) -> artifact.About | None:
    """Give a model all that its file of a finished run holds; None, and the model as it was, where there is none.

    The file counts if `same(provenance)` and if it is past its calibration. Named points and temperatures come along.
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
    except (ValueError, KeyError, RuntimeError):  # of another version, or not whole: it is written anew
        return None
    dial_map = found["dial_map"]
    model.dial_map = None if dial_map is None else DialMap(**{k: tuple(v) for k, v in dial_map.items()})
    measured = found["measured"]
    model.temperatures = {k: float(v["temperature"]) for k, v in measured.items() if "temperature" in v}
    preprocessing = artifact.preprocessing_of(found, model, str(path))
    return artifact.About(tuple(found["classes"]), found["threat"], provenance, measured, preprocessing)
