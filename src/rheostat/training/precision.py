"""The precision of a run: the requested one, the best one for the chip, or the one that the run began with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TypeVar

import torch

from rheostat.runtime.distributed import Ranks
from rheostat.runtime.precision import Precision, resolved
from rheostat.training.run import Report
from rheostat.training.settings import Settings

S = TypeVar("S", bound=Settings)


def settled(settings: S, folder: Path, device: torch.device, ranks: Ranks, *, fresh: bool, report: Report | None) -> S:
    """The settings with "auto" replaced by a precision, which is reported once; other values do not change.

    A run with a checkpoint in `folder` continues in the precision that it began with, whatever this machine would
    choose. Several ranks use bf16 only if every rank's chip multiplies it natively.
    """
    if settings.device.precision != "auto":
        return settings
    here: Precision = "fp32" if ranks.any(resolved("auto", device) == "fp32") else "bf16"
    began = None if fresh else _began(folder)
    chosen = here if began is None else began
    if ranks.first:
        _say(chosen, here, folder, report)
    changed = settings.device.model_copy(update={"precision": chosen})
    return settings.model_copy(update={"device": changed})


def _began(folder: Path) -> Precision | None:
    """The precision of the run with a checkpoint in this folder, from its recipe.json."""
    recipe = folder / "recipe.json"
    if not (folder / "checkpoint.safetensors").is_file() or not recipe.is_file():
        return None
    found = json.loads(recipe.read_text()).get("device", {}).get("precision")
    return found if found in ("fp32", "bf16") else None


def _say(chosen: Precision, here: Precision, folder: Path, report: Report | None) -> None:
    """Report the choice; without a `report` function, warn if it differs from this machine's choice."""
    if chosen != here:
        why = f"the run in {folder} began in it; this machine would choose {here}"
    elif chosen == "bf16":
        why = "this chip multiplies bf16 natively; set device.precision=fp32 for full precision"
    else:
        why = "this chip does not multiply bf16 natively"
    if report is not None:
        report({"event": "precision", "precision": chosen, "why": why})
    elif chosen != here:
        warnings.warn(f"training in {chosen}: {why}", stacklevel=4)
