"""The target of an evaluation: a model of this package or any module, and its description in rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from rheostat.methods.base import settings_of
from rheostat.models.artifact import About
from rheostat.models.hashing import digest_of_model, structure, tensor_bytes
from rheostat.models.tunable import AtPoint, Tunable
from rheostat.points.point import Point


@dataclass(frozen=True)
class Target:
    """The module that is measured, and its description in rows."""

    model: nn.Module
    run: str
    artifact: str | None = None
    about: About = field(default_factory=About)
    rule: str | None = None
    """The rule by which λ selects norm sets, if it replaces the model's dial: "at-0" and so on."""
    folder: Path | None = None
    """The folder of the run, if the model comes from one."""

    def described(self) -> dict[str, Any]:
        """The fields of a row that do not depend on point, attack or data."""
        model = self.model
        recipe = self.about.provenance.get("recipe", {})
        net: dict[str, Any] | str = type(model).__name__
        if isinstance(model, Tunable):
            net = {
                k: list(v) if isinstance(v, tuple) else v for k, v in model.net.spec.items() if k not in ("mean", "std")
            }
        return {
            "run": self.run,
            "artifact": self.hash,
            "composition": recipe.get("paper"),
            "settings": settings_of(model.method) if isinstance(model, Tunable) else {},
            "train": {
                "epochs": recipe.get("train", {}).get("epochs"),
                "images": recipe.get("data", {}).get("train_images"),
                "attack": recipe.get("attack"),
                "seed": recipe.get("train", {}).get("seed"),
                "robustness": recipe.get("method", {}).get("robustness"),
                "precision": (recipe.get("device") or {}).get("precision"),
                "seconds": self.about.provenance.get("seconds"),
            },
            "net": net,
            "rule": self.rule,
        }

    def dial(self, at: Mapping[str, float]) -> Literal["lambda", "t"] | None:
        """The meaning of a position of `robustness`: "t" if the dial is calibrated, else the λ of training."""
        if "robustness" not in at:
            return None
        calibrated = isinstance(self.model, Tunable) and self.model.dial_map is not None
        return "t" if calibrated and self.rule is None else "lambda"

    def at(self, point: Point | None) -> nn.Module:
        """The module that maps images to logits at a point; a plain module ignores the point."""
        return self.model.at(point) if isinstance(self.model, Tunable) else self.model

    @property
    def flags(self) -> list[str]:
        """The flags that training raised, each once, in alphabetical order."""
        return sorted(set(self.about.provenance.get("flags", [])))

    @property
    def hash(self) -> str:
        """A hash that identifies the model: that of its file, or of the module (`digest_of`)."""
        return self.artifact or digest_of(self.model)


def as_target(model: nn.Module | Target, name: str | None = None) -> Target:
    """The target of a module, named `name` or after its class; a `Target` keeps its own name unless one is given.

    The description of a Tunable, such as its threat model, is that of its own `about`.
    """
    if isinstance(model, Target):
        return model if name is None else replace(model, run=name)
    held = model.model if type(model) is AtPoint else model
    about = held.about if isinstance(held, Tunable) else None
    return Target(model, name or type(held).__name__, about=about or About())


def digest_of(model: nn.Module) -> str:
    """A hash of what decides a module's outputs, as far as that can be read from it.

    For a Tunable it is the hash of the file that `save` would write. For any other module it covers its type, its
    structure, its parameters and buffers, and each Tunable and point inside it (`model.at(...)` is such a module).
    """
    if isinstance(model, Tunable):
        return digest_of_model(model)
    found = hashlib.sha256(type(model).__qualname__.encode())
    found.update(structure(model).encode())
    for part in model.modules():
        if isinstance(part, Tunable):
            found.update(digest_of_model(part).encode())
        elif isinstance(part, AtPoint):
            found.update(repr(dict(part.point)).encode())
    for name, tensor in model.state_dict().items():
        found.update(tensor_bytes(name, tensor))
    return found.hexdigest()[:16]
