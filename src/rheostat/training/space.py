"""A search space: the keys of a recipe that a search may change, and their values, in one validated TOML file."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rheostat.runtime.choices import NoEffectWarning
from rheostat.runtime.toml import read_toml
from rheostat.training.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    import optuna


class Range(BaseModel):
    """The values of one key: `choices`, or numbers from `low` to `high` (integers if both are), `log` for log scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[Any, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        bounds = [b for b in (self.low, self.high) if b is not None]
        if self.choices is not None:
            if bounds or self.log or not self.choices:
                raise ValueError("`choices` needs at least one value, and excludes low, high and log")
            return self
        if len(bounds) < 2:
            raise ValueError("write { choices = [...] } or { low = ..., high = ... }")
        low, high = bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or (self.log and low <= 0):
            raise ValueError(f"low {low} must be below high {high}, both finite, and above 0 with log")
        return self

    def suggest(self, key: str, trial: optuna.Trial) -> Any:
        """A trial's value for this key."""
        if self.choices is not None:
            # A choice may be a table or a list, which a study can store only as text.
            return json.loads(trial.suggest_categorical(key, [json.dumps(c) for c in self.choices]))
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def edges(self) -> tuple[Any, ...]:
        """Representative values of the range, with which recipes are checked."""
        return self.choices if self.choices is not None else (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """A recipe, and the ranges of the keys that may change, indexed by `section.key`.

    A choice that is a table changes several keys of its section at once:
    `"attack" = { choices = [{ kind = "n-fgsm", steps = 1 }, { kind = "pgd", steps = 2 }] }`.
    """

    recipe: Recipe
    ranges: Mapping[str, Range]

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with these values by key; ValueError if that recipe is invalid."""
        merged = self.recipe.model_dump(exclude_unset=True)
        for key, value in values.items():
            *sections, last = key.split(".")
            inner = merged
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = {**inner.get(last, {}), **value} if isinstance(value, dict) else value
        with warnings.catch_warnings():
            # Ignore unused settings: a key without effect under one choice may be needed by another.
            warnings.simplefilter("ignore", NoEffectWarning)
            return parse_recipe(merged)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A trial's value of every key."""
        return {key: of.suggest(key, trial) for key, of in self.ranges.items()}


def read_space(path: str | Path, recipe: Recipe) -> Space:
    """Read a space from a file whose table `[space]` holds one range per key; every edge must make a valid recipe.

    One-line ValueError if the file is not TOML, has an unknown key, or has a value that the recipe refuses.
    """
    path = Path(path)
    values = read_toml(path)
    table = values.get("space")
    if set(values) != {"space"} or not isinstance(table, dict) or not table:
        raise ValueError(
            f'{path}: expected one table [space] with lines such as "train.lr" = {{ low = 0.05, high = 0.4 }}'
        )
    ranges = {}
    for key, given in table.items():
        try:
            ranges[key] = Range.model_validate(given)
        except ValidationError as error:
            problem = error.errors()[0]
            why = problem.get("ctx", {}).get("error", problem["msg"])
            raise ValueError(f"{path}: {key}: {why}") from None
    space = Space(recipe, ranges)
    for key, of in ranges.items():
        for value in of.edges():
            try:
                space.changed({key: value})
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}: {key} = {value!r}: {error}") from None
    return space


def as_toml(recipe: Recipe) -> str:
    """A recipe as the text of a file for `rheostat train`, without default values."""
    values = recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{k} = {_inline(v)}" for k, v in table.items() if v is not None)]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(v) for v in value) + "]"
    return json.dumps(value)
