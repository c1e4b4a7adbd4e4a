"""The section of docs/appendix on the search for the recipe of the CIFAR-10 model that ships."""

from __future__ import annotations

import json
from typing import Any

from markdown import per_cent, table
from plain import Row

FIXED = ("trial", "state", "score", "epochs", "seconds", "note")
"""What a trial says of itself; all else is a value of the space."""


def section(trials: list[Row]) -> str:
    """Every trial, in the order that `tune` writes: the best score first."""
    if not trials:
        return ""
    keys = sorted({key for trial in trials for key in trial} - set(FIXED))
    body = [
        [
            str(trial["trial"]),
            "–" if trial["score"] is None else per_cent(trial["score"]),
            str(trial["epochs"]),
            "" if trial["seconds"] is None else f"{trial['seconds']:.0f}",
            *(_said(trial.get(key)) for key in keys),
            trial["note"],
        ]
        for trial in trials
    ]
    return (
        "## The search for the CIFAR-10 model that ships\n\n`rheostat tune cifar10-resnet20 --space "
        "benchmarks/zoo/search.toml` (the file has the whole command) trained these recipes for few epochs, and "
        "stopped weak ones early. The score is the mean of (1-λ)·SA + λ·RA over λ = 0, 0.2 and 1, under PGD-10 on "
        "500 images of `calibrate-fit`, so differences of two points mean little. Short trainings favour options that "
        "act early, and the time of a trial depends on its method and attack.\n\n"
        + table(["trial", "score", "epochs", "training, s", *(f"`{key}`" for key in keys), ""], body)
    )


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_said(v)}" for k, v in value.items())
    return "" if value is None else str(value) if isinstance(value, str) else json.dumps(value)
