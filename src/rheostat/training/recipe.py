"""A recipe: one complete run as a validated value, written in TOML or Python."""

from __future__ import annotations

import copy
import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rheostat import data
from rheostat.methods import COMPOSITIONS, Stack, compose
from rheostat.runtime.choices import nearest
from rheostat.runtime.quantities import number
from rheostat.runtime.toml import DEEPEST, parse_toml, read_toml
from rheostat.training.settings import AttackSection, Augmentation, Settings, validated
from rheostat.training.validation import check_recipe


class DataSection(Augmentation):
    """The images: `train_images` None takes all images that are not held out for calibration.

    `size` [H, W] resizes images of any size by the rule `resize`, in the colour mode `mode` (see `data.Preprocessing`).
    """

    name: str
    calibrate: int = Field(default=2000, ge=2)
    train_images: int | None = Field(default=None, ge=1)
    verify: bool = True
    split_seed: int = 0
    size: tuple[int, int] | None = None
    resize: Literal["crop", "stretch", "pad"] = "crop"
    mode: Literal["RGB", "L"] = "RGB"

    def preprocessing(self) -> data.Preprocessing | None:
        """The preprocessing that resizes images, or None."""
        return None if self.size is None else data.Preprocessing(self.size, self.resize, self.mode)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        data.check_known(name)
        return name


class Recipe(Settings):
    """One complete training run."""

    paper: str
    about: str = ""
    method: dict[str, Any] = Field(default_factory=dict)
    net: dict[str, Any]
    data: DataSection

    @field_validator("paper")
    @classmethod
    def _composition(cls, paper: str) -> str:
        COMPOSITIONS.get(paper)
        return paper

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        self.data.preprocessing()  # check its size before reading any data
        check_recipe(self)
        return self

    def stack(self) -> Stack:
        """The composition this recipe trains."""
        return compose(self.paper, **self.method)

    def changed(self, **sections: Any) -> Recipe:
        """This recipe with some fields changed: `recipe.changed(train={"epochs": 5})`."""
        merged = self.model_dump()
        for key, value in sections.items():
            section = merged.get(key)
            merged[key] = {**section, **value} if isinstance(value, dict) and isinstance(section, dict) else value
        changed = parse_recipe(merged)
        _warn_of_step_size(self.attack.eps, self.attack.step_size, changed.attack)
        return changed


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Make a recipe from plain values; one-line ValueError with the nearest valid name."""
    return validated(Recipe, values)


def names() -> list[str]:
    """The names of the packaged recipes."""
    folder = resources.files("rheostat.training") / "recipes"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def load_recipe(which: str | Path, *, changes: list[str] | None = None) -> Recipe:
    """Load a recipe by name or file, and apply changes such as `train.epochs=5` before validation."""
    path = Path(which)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise ValueError(f"no recipe file {path}")
        values = read_toml(path)
    elif str(which) in names():
        text = (resources.files("rheostat.training") / "recipes" / f"{which}.toml").read_text()
        values = parse_toml(text, str(which))
    else:
        raise ValueError(f"no recipe {str(which)!r}; {nearest(str(which), names())}")
    written = copy.deepcopy(values.get("attack", {}))
    for change in changes or []:
        _apply(values, change)
    recipe = parse_recipe(values)
    if {"eps", "step_size"} <= set(written):
        _warn_of_step_size(number(written["eps"]), number(written["step_size"]), recipe.attack)
    return recipe


def _warn_of_step_size(eps: object, step_size: object, after: AttackSection) -> None:
    """Warn if eps changes but the step size does not, because that is most likely a mistake."""
    if after.step_size is not None and after.step_size == step_size and after.eps != eps:
        warnings.warn(
            f"attack.eps is {after.eps:g} instead of {eps}, but attack.step_size is still "
            f"{after.step_size:g}, which was chosen for the old eps; set attack.step_size too (null: the papers' rule)",
            stacklevel=3,
        )


def _apply(values: dict[str, Any], change: str) -> None:
    key, sign, given = change.partition("=")
    if not sign or not key.strip():
        raise ValueError(f"cannot read --set {change!r}; write section.key=value")
    *sections, last = key.strip().split(".")
    if len(sections) > DEEPEST:
        raise ValueError(f"--set: a key has at most {DEEPEST + 1} parts, given {len(sections) + 1}")
    place = values
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {change!r}: {section!r} is not a section")
        place = inner
    try:
        place[last] = json.loads(given)
    except json.JSONDecodeError:
        place[last] = given
    except (ValueError, RecursionError) as error:  # a number with too many digits, or lists nested too deeply
        raise ValueError(f"cannot read --set {key}: {error}") from None
