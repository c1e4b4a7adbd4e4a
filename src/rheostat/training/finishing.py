"""After the last step: the model is saved, then calibrated and saved again, so that nothing is lost."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rheostat.attacks import Attack
from rheostat.calibration import fittings
from rheostat.calibration.dial import calibrate_dial
from rheostat.calibration.exit_policy import fit_policy
from rheostat.data import Splits
from rheostat.data.splits import subset
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from rheostat.runtime.interrupts import Interrupted
from rheostat.runtime.precision import full_precision
from rheostat.training.checkpoint import Progress
from rheostat.training.recipe import Recipe, parse_recipe
from rheostat.training.run import Report

PENDING = "pending"
FAILED = "calibration-failed"
FITTED_ON = 500
"""Images of calibrate-fit that the dial, and what comes before it, are fitted on."""


@dataclass(frozen=True)
class Trained:
    """A finished run: the selected model in eval, its recipe, and what was recorded per epoch."""

    model: Tunable
    recipe: Recipe
    progress: Progress
    splits: Splits


def about(trained: Trained, *, calibration: str) -> artifact.About:
    """What the artifact of a run says beside its weights; `calibration` is "done", "pending" or why it failed."""
    recipe, progress = trained.recipe, trained.progress
    return artifact.About(
        classes=trained.splits.train.classes,
        threat={"norm": recipe.attack.norm, "eps": recipe.attack.eps},
        provenance={
            "recipe": recipe.model_dump(mode="json"),
            "dataset": recipe.data.name,
            "seconds": round(progress.seconds, 1),
            "best_epoch": progress.best_epoch,
            "flags": progress.flags,
            "calibration": calibration,
            "versions": artifact.versions(),
        },
    )


def finish(trained: Trained, folder: Path, device: torch.device, *, writes: bool, report: Report | None) -> None:
    """Save the model in `folder`, calibrate its dial and its exit policy as the recipe asks, and save it again.

    A calibration that cannot be done is the flag `calibration-failed` in the file, and an event; the
    model stays as it was before. `writes` is whether this rank writes files. Raises Interrupted
    after Ctrl-C in a calibration: the model is saved, and the same command goes on.
    """
    path = folder / "model.safetensors"
    if writes:
        artifact.save(path, trained.model, about(trained, calibration=PENDING))
    try:
        problems = _calibrated(trained, device)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped while calibrating; {path} keeps the trained model, and the same command continues"
        ) from None
    if problems:
        trained.progress.flags = sorted({*trained.progress.flags, FAILED})
    if writes:
        artifact.save(path, trained.model, about(trained, calibration="; ".join(problems) or "done"))
    if problems and writes:
        why = "; ".join(problems)
        if report is not None:
            report({"event": FAILED, "why": why, "model": str(path)})
        else:
            warnings.warn(f"not calibrated, the model is kept as trained: {why}", stacklevel=3)


@full_precision()
def _calibrated(trained: Trained, device: torch.device) -> list[str]:
    """Calibrate what the recipe asks for; what could not be done, in words."""
    model, recipe, fit = trained.model, trained.recipe, trained.splits.fit
    attack = Attack("pgd", recipe.attack.eps, 10, norm=recipe.attack.norm)
    held_out = subset(fit, FITTED_ON).to(device)
    wanted: list[tuple[str, Callable[[], object]]] = [
        (f.what, functools.partial(f.fit, model, held_out, attack)) for f in fittings(model)
    ]
    if recipe.calibrate_dial:
        wanted.append(("dial", lambda: calibrate_dial(model, held_out, attack)))
    if "exit" in model.dials:
        wanted.append(("exit policy", lambda: fit_policy(model, fit.to(device), **recipe.policy.model_dump())))
    problems = []
    for what, calibrate in wanted:
        try:
            calibrate()
        except ValueError as error:
            problems.append(f"{what}: {error}")
    return problems


def finished(
    folder: Path, same: Callable[[Recipe], bool], device: torch.device, progress: Progress, total: int
) -> tuple[Tunable, list[str]] | None:
    """The model of a run that has nothing left to do, with its flags, or None.

    Nothing is left when the checkpoint is at the last step, and the folder's artifact is of the same
    recipe and past its calibration. It is loaded as it is, named points and temperatures included.
    """
    path = folder / "model.safetensors"
    if progress.step < total or not path.is_file():
        return None
    try:
        model, found = artifact.load_with(path)
        if not same(parse_recipe(found.provenance["recipe"])):
            return None
    except (ValueError, KeyError):  # of another version, or not whole: it is written anew
        return None
    if found.provenance.get("calibration") == PENDING:
        return None
    return model.to(device), list(found.provenance.get("flags", []))
