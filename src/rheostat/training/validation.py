"""Check a recipe as a whole when it is loaded, instead of failing after hours of training."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from rheostat import nets
from rheostat.attacks import ATTACKS, Attack
from rheostat.data import DATASETS
from rheostat.methods import Exits, Stack
from rheostat.runtime.choices import NoEffectWarning
from rheostat.training.attacks import Function

if TYPE_CHECKING:
    from rheostat.training.recipe import Recipe
    from rheostat.training.settings import Settings

FROM_DATA = ("classes", "image", "mean", "std")
ANY_IMAGE = (3, 64, 64)
"""The image shape for trying a network if the data set does not state one."""


def check_recipe(recipe: Recipe) -> None:
    """ValueError for a recipe that cannot be trained, NoEffectWarning for settings that have no effect.

    It checks the composition and the network together, without reading images or allocating weights.
    """
    stack = recipe.stack()
    _try_network(recipe, stack)
    check_settings(recipe, stack, recipe.paper)


def check_settings(
    settings: Settings, stack: Stack, composition: str, *, attack: Attack | Function | None = None
) -> None:
    """ValueError for settings that do not work with a composition, NoEffectWarning for settings that it ignores.

    `attack` is the training attack if it is not that of the settings.
    """
    _check_dial(settings, stack, composition)
    _check_policy(settings)
    if settings.train.awp and any(t.late for t in stack.plan(settings.train.batch, torch.Generator())):
        raise ValueError(
            "train.awp perturbs the weights after all attacks; method.late_attack attacks between the passes"
        )
    if settings.train.trades is not None:
        if stack.part(Exits) is not None:
            raise ValueError("train.trades works with one head only; this composition has exits")
        if settings.attack.loss != "ce":
            raise ValueError("train.trades attacks its own divergence; leave attack.loss at 'ce'")
        used = settings.attack.for_training() if attack is None else attack
        if isinstance(used, Attack) and not used.start:
            # There the divergence is 0 and so is its gradient: a step would follow the signs of rounding errors.
            raise ValueError(
                f"train.trades needs an attack that starts at random: this {used.kind} starts at the clean image, "
                "where the divergence has no gradient; take attack.kind 'pgd' or 'n-fgsm' with their random starts"
            )
    _warn_without_effect(settings, stack, composition)


def _try_network(recipe: Recipe, stack: Stack) -> None:
    """Build the network and install the methods without weights (on the meta device) or random draws."""
    for key in FROM_DATA:
        if key in recipe.net:
            raise ValueError(f"net.{key} comes from the data set; leave it out")
    source = DATASETS.get(recipe.data.name) if recipe.data.name in DATASETS else None
    image = ANY_IMAGE if source is None or source.image is None else source.image
    rule = recipe.data.preprocessing()
    if rule is not None:
        image = rule.image
    classes = 10 if source is None else source.classes
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            net = nets.build({**recipe.net, "classes": classes, "image": image})
        except (TypeError, ValueError) as error:
            raise ValueError(f"net: {error}") from None
        try:
            stack.bound(net).install(net)
        except (NotImplementedError, RuntimeError):
            return  # the method reads weights (masks), so only training can install it


def _check_dial(settings: Settings, stack: Stack, composition: str) -> None:
    dials = {dial.name for dial in stack.dials()}
    if "robustness" not in dials:
        if settings.calibrate_dial:
            raise ValueError(f"calibrate_dial: {composition} has no dial 'robustness' to calibrate")
        return
    levels = settings.select.robustness
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise ValueError(f"select.robustness: give at least one setting of the dial, all in [0, 1]; given {levels}")


def _check_policy(settings: Settings) -> None:
    rule = settings.policy.rule
    needed = {"budget": "macs", "accuracy": "accuracy"}.get(rule)
    if needed is not None and getattr(settings.policy, needed) is None:
        raise ValueError(f"policy.rule {rule!r} needs policy.{needed}")


def _warn_without_effect(settings: Settings, stack: Stack, composition: str) -> None:
    attack = settings.attack
    unused = {f"attack.{key}" for key in ("steps", "step_size", "restarts", "loss")} - {
        f"attack.{key}" for key in ATTACKS.get(attack.kind).uses
    }
    why = dict.fromkeys(unused, f"{attack.kind} does not use it")
    if stack.part(Exits) is None:
        why |= dict.fromkeys(_keys(settings.policy, "policy"), f"{composition} has no exits")
    for key, rule in (("macs", "budget"), ("accuracy", "accuracy")):
        if settings.policy.rule != rule:
            why.setdefault(f"policy.{key}", f"the rule is {settings.policy.rule!r}")
    if "robustness" not in {dial.name for dial in stack.dials()}:
        why["select.robustness"] = f"{composition} has no dial 'robustness'"
    if settings.data.augment == "none":
        why["data.padding"] = "data.augment is 'none'"
    if getattr(settings.data, "size", ()) is None:  # only a recipe has `size`; `fit` does not resize images
        why |= dict.fromkeys(("data.resize", "data.mode"), "data.size is not given")
    if not settings.train.awp:
        why["train.awp_from"] = "train.awp is 0"
    if settings.train.schedule != "multi-step":
        why["train.gamma"] = f"train.schedule is {settings.train.schedule!r}"
    if settings.train.early_size == 1:
        why["train.early_until"] = "train.early_size is 1"
    for key in sorted(why):
        section, _, name = key.partition(".")
        if _differs(getattr(settings, section), name):
            warnings.warn(f"{settings.name}: {key} has no effect, because {why[key]}", NoEffectWarning, stacklevel=2)


def _keys(section: BaseModel, name: str) -> list[str]:
    return [f"{name}.{key}" for key in type(section).model_fields]


def _differs(section: BaseModel, key: str) -> bool:
    """Whether a key differs from its default."""
    value: Any = getattr(section, key)
    return bool(value != type(section).model_fields[key].default)
