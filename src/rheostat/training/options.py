"""Options of a run that are not plain values: the caller's objects and functions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from rheostat.attacks import ATTACKS, Attack
from rheostat.data import Dataset, Preprocessing
from rheostat.data.given import Given
from rheostat.runtime.choices import nearest
from rheostat.runtime.quantities import number
from rheostat.training.attacks import Function
from rheostat.training.callbacks import check_callbacks
from rheostat.training.describing import hash_of, name_of_kind
from rheostat.training.optimisers import OptimiserGiven, SchedulerGiven
from rheostat.training.settings import Settings, TrainSection, validated
from rheostat.training.step import RowLoss

SECTIONS = ("device", "select", "policy", "data", "attack", "train")
QUIET = ("callbacks", "workers", "in_memory", "classes", "columns")
"""Options that do not affect the weights."""
TEXTS = (Tensor, np.ndarray, str, int, Path, Attack, list, tuple, Preprocessing)
"""Types of options whose text is enough: it says all, or the images that a rule resizes are hashed themselves."""


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit` that are objects or functions; all others are those of a recipe's sections.

    `optimiser`, `scheduler`: torch's, or functions that make them (see `training.optimisers`). `loss`: logits (n, K),
    labels (n,) → (n,), replaces cross-entropy. `attack`: an `Attack`, or a function (objective, images, generator) →
    images. `callbacks`: see `training.callbacks`. `accumulate`: number of parts into which each batch is cut before
    one update. `init`: a model file, run, packaged name or state dict to start from. `freeze`: names or patterns of
    parameters that are not trained (their norms still update running statistics). `sampler`: a torch sampler of the
    training images. `class_weights`: (K,) factors of the loss by label, or "balanced" (N / (K · images of the class)).
    `classes`: names of the classes. `columns`: the keys of image and label if items are dicts. `preprocessing`: a
    `data.Preprocessing` for Pillow images of any size; our folder readers supply theirs, and the model's file keeps
    it. `workers`: number of processes that read images from outside memory. `in_memory`: True reads a data set once
    and holds it, False streams it, None decides by its kind. `steps_per_epoch`: required for an iterable.
    """

    optimiser: OptimiserGiven | None = None
    scheduler: SchedulerGiven | None = None
    loss: RowLoss | None = None
    attack: Attack | Function | None = None
    callbacks: Sequence[object] = ()
    accumulate: int = 1
    init: str | Path | Mapping[str, Tensor] | None = None
    freeze: Sequence[str] = ()
    sampler: Sampler[int] | None = None
    class_weights: Tensor | Sequence[float] | str | None = None
    classes: Sequence[str] | None = None
    preprocessing: Preprocessing | None = None
    columns: tuple[str, str] | None = None
    workers: int | None = None
    in_memory: bool | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        check_callbacks(self.callbacks)
        for name, value in (("accumulate", self.accumulate), ("steps_per_epoch", self.steps_per_epoch)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, given {value}")
        if isinstance(self.freeze, str):
            raise ValueError(f"freeze must be a sequence of names; write freeze=[{self.freeze!r}]")
        for name in ("loss", "attack"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Attack) and not callable(value):
                raise ValueError(f"{name} must be a function, given {value!r}")

    def described(self) -> dict[str, str]:
        """The options that affect the weights, as text for a reader."""
        return {name: _text(value) for name, value in self._affecting()}

    def identified(self) -> dict[str, str]:
        """The same text, but a hash for each object and function; a checkpoint continues only if all are equal."""
        return {name: _text(value) if isinstance(value, TEXTS) else hash_of(value) for name, value in self._affecting()}

    def _affecting(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in QUIET and _given(value, field.default):
                yield field.name, value


def _given(value: Any, default: Any) -> bool:
    """Whether an option was given. An array or a tensor is not compared, because that gives an array."""
    return value is not None if default is None else bool(value != default)


def _text(value: Any) -> str:
    """An option's value as text that does not change between processes."""
    if isinstance(value, torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
        return f"{type(value).__name__} {sorted(getattr(value, 'defaults', {}).items())}"
    if isinstance(value, Tensor | np.ndarray):
        return str(value.tolist())
    if isinstance(value, Mapping):
        return f"{len(value)} tensors"
    if isinstance(value, str | int | Path | Attack | list | tuple):
        return repr(value)
    return name_of_kind(value)


def sorted_out(base: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Settings, FitOptions]:
    """Split the keyword arguments of `fit` into plain settings, which override `base`, and options.

    ValueError names the nearest key for an unknown one.
    A key is a field of `FitOptions`, of the section `train` (epochs, batch, lr, ...), `eps`, `norm`, `augment`,
    `padding`, `calibrate_dial`, or a section as a dict: `select={"images": 500}`, `attack={"steps": 10}`.
    """
    own = {f.name for f in fields(FitOptions)}
    values: dict[str, Any] = {"attack": {}, "train": {}, "data": {}, **copy.deepcopy(dict(base))}
    options: dict[str, Any] = {}
    where = dict.fromkeys(TrainSection.model_fields, "train")
    where |= {"eps": "attack", "norm": "attack", "augment": "data", "padding": "data"}
    for key, value in given.items():
        if key == "device" and isinstance(value, str | torch.device):
            values.setdefault("device", {})["name"] = str(value)
        elif key in SECTIONS and isinstance(value, Mapping):
            values.setdefault(key, {}).update(value)
        elif key in own:
            options[key] = value
        elif key in where:
            values[where[key]][key] = value
        elif key == "calibrate_dial":
            values[key] = value
        else:
            raise ValueError(f"fit has no option {key!r}; {nearest(key, [*own, *where, *SECTIONS, 'calibrate_dial'])}")
    attack = options.get("attack")
    if isinstance(attack, Attack):
        for key, value in (("eps", attack.eps), ("norm", attack.norm)):
            if number(values["attack"].setdefault(key, value)) != value:
                raise ValueError(f"{key} is {values['attack'][key]!r}, but the given attack has {value!r}; give one")
        used = {k: getattr(attack, k) for k in ATTACKS.get(attack.kind).uses}
        values["attack"] |= {"kind": attack.kind, **used}
    elif "eps" not in values["attack"]:
        raise ValueError('fit needs a radius: eps="8/255" (in units of [0, 1]), or an Attack')
    chosen, found = validated(Settings, values), FitOptions(**options)
    check_together(chosen, found)
    return chosen, found


def check_together(settings: Settings, options: FitOptions) -> None:
    """ValueError for settings and options that exclude one another."""
    train = settings.train
    if train.batch % options.accumulate or train.batch // options.accumulate < 2:
        raise ValueError(
            f"accumulate is {options.accumulate}: batch {train.batch} does not divide into parts of at least 2 rows"
        )
    if options.accumulate > 1 and train.awp:
        raise ValueError("awp needs one gradient per step; leave accumulate at 1")
    if options.loss is not None and (train.label_smoothing or train.attacked_smoothing):
        raise ValueError("label smoothing applies to cross-entropy only; smooth the labels in your loss")
    own = options.attack is not None and not isinstance(options.attack, Attack)
    if own and settings.attack.warmup:
        raise ValueError("attack.warmup changes an Attack's eps; an attack function must do its own warm-up")
    if options.optimiser is not None:
        changed = [k for k in ("lr", "momentum", "weight_decay") if k in train.model_fields_set]
        if changed:
            raise ValueError(f"{changed[0]} belongs to the default optimiser; set it in yours")
    if options.scheduler is not None:
        given = [k for k in ("schedule", "warmup", "milestones", "gamma", "rate_by") if k in train.model_fields_set]
        if given:
            raise ValueError(f"{given[0]} belongs to the default scheduler; leave it out")


def weights_of_classes(given: Tensor | Sequence[float] | str | None, classes: int, images: Given) -> Tensor | None:
    """(K,) factors of the loss by label; ValueError unless there is one finite number >= 0 per class."""
    if given is None:
        return None
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f'class_weights must be "balanced" or one number per class, given {given!r}')
        if not isinstance(images, Dataset):
            raise ValueError('class_weights="balanced" needs labels in memory; give one number per class')
        counts = torch.bincount(images.labels.cpu(), minlength=classes).double()
        if not bool((counts > 0).all()):
            raise ValueError(f"class {int(counts.argmin())} has no training image; give class_weights as numbers")
        return (len(images) / (classes * counts)).float()
    try:
        found = torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"class_weights must be {classes} finite numbers of at least 0, given {given!r}") from None
    if found.shape != (classes,) or not bool((found.isfinite() & (found >= 0)).all()):
        raise ValueError(f"class_weights must be {classes} finite numbers of at least 0, given {given!r}")
    return found
