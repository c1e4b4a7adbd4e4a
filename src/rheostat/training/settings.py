"""Settings: the plain values that the loop reads. A recipe adds the network, the composition and the data."""

from __future__ import annotations

import difflib
import itertools
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rheostat.attacks import ATTACKS, Attack
from rheostat.data.augmentation import AUGMENTATIONS
from rheostat.runtime.choices import nearest
from rheostat.runtime.precision import Asked
from rheostat.runtime.quantities import Fraction

MOST_THREADS = 1024


class Section(BaseModel):
    """A section of a recipe: immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Augmentation(Section):
    """Random crops (zero padding) and flips, drawn on the device."""

    augment: Literal[AUGMENTATIONS] = "none"  # type: ignore[valid-type]
    padding: int = Field(default=4, ge=1)


class AttackSection(Section):
    """The training attack; `step_size` None takes the papers' rule."""

    kind: str = "pgd"
    norm: Literal["linf", "l2"] = "linf"
    eps: Fraction = Field(ge=0)
    steps: int = Field(default=7, ge=1)
    step_size: Fraction | None = Field(default=None, gt=0)
    restarts: int = Field(default=1, ge=1)
    """Random starts of each attack; each row trains on the start with the highest loss."""
    loss: Literal["ce", "margin", "dlr"] = "ce"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The share of training over which eps and step rise linearly from 0."""

    @field_validator("kind")
    @classmethod
    def _trains(cls, kind: str) -> str:
        allowed = [name for name, attack in ATTACKS.items() if attack.trains]
        if kind not in allowed:
            raise ValueError(f"no attack to train with {kind!r}; {nearest(kind, allowed)}")
        return kind

    @model_validator(mode="after")
    def _possible(self) -> AttackSection:
        self.for_training()
        return self

    def for_training(self) -> Attack:
        """The training attack. It never drops rows, so its cost is fixed."""
        return ATTACKS.get(self.kind).training(
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size,
            restarts=self.restarts,
            loss=self.loss,
        )


class TrainSection(Section):
    """The optimiser and the loop.

    `schedule` is the learning rate's course: cosine falls to 0; one-cycle rises for 30 % of training, then falls;
    multi-step multiplies the rate by `gamma` at each of `milestones`; constant keeps it.
    """

    epochs: int = Field(ge=1)
    batch: int = Field(default=128, ge=2)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "one-cycle", "multi-step", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    """Where a multi-step rate falls: shares of training (below 1), or whole steps (from 1 on)."""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    rate_by: Literal["step", "epoch"] = "step"
    """Whether the rate changes at each step or only at each epoch, as in FLOAT's public code."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The share of training over which the rate rises linearly to the schedule's; 0 means no warm-up."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    attacked_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Label smoothing of attacked rows; None uses `label_smoothing` for these rows too."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a moving average of the weights; selection keeps it or the last weights. None is off."""
    trades: float | None = Field(default=None, gt=0)
    """β of TRADES on adversarial rows, 6 in its paper; None trains them by cross-entropy."""
    awp: float = Field(default=0.0, ge=0, lt=1)
    """γ of adversarial weight perturbation, 0.005 in its paper; 0 is off."""
    awp_from: float = Field(default=0.1, ge=0, lt=1)
    """The share of training after which weight perturbation starts."""
    early_size: float = Field(default=1.0, gt=0, le=1)
    """Height and width of the images in the early part of training, as a share of the full size; 1 is off."""
    early_until: float = Field(default=0.5, gt=0, le=1)
    """The share of training that has images of `early_size`."""
    clip: float | None = Field(default=None, gt=0)
    seed: int = 0
    max_steps: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _scheduled(self) -> TrainSection:
        found = self.milestones
        if (self.schedule == "multi-step") != bool(found):
            raise ValueError(
                f"schedule {self.schedule!r} with {len(found)} milestones; milestones belong to 'multi-step', "
                "which needs at least one"
            )
        shares = all(0 < m < 1 for m in found)
        steps = all(m >= 1 and m == int(m) for m in found)
        if not (shares or steps) or any(b <= a for a, b in itertools.pairwise(found)):
            raise ValueError(
                f"milestones must rise, as shares of training between 0 and 1 or as whole steps, given {list(found)}"
            )
        return self


class PolicySection(Section):
    """How the exit policy of a multi-exit model is fitted after training, on calibrate-fit."""

    rule: Literal["equal-shares", "budget", "accuracy"] = "equal-shares"
    macs: float | None = Field(default=None, gt=0)
    accuracy: float | None = Field(default=None, gt=0, le=1)


class DeviceSection(Section):
    """Device and precision: `bf16` autocasts all but normalisation and the first convolution; auto picks one."""

    name: str = "auto"
    precision: Asked = "auto"
    channels_last: bool = True
    compile: bool = False
    threads: int | None = Field(default=None, ge=1, le=MOST_THREADS)


class SelectSection(Section):
    """Selection by one score on calibrate-fit: the mean over dial settings λ of (1-λ)·SA + λ·RA.

    The model is scored every `every` epochs in the last share `tail` of training; the best weights are kept, one
    checkpoint for all λ. RA is that under PGD of `steps` steps on `loss`. Smoothed labels weaken PGD on the margin less
    than PGD on cross-entropy, so compare runs that differ in smoothing with `margin`.
    """

    images: int = Field(default=300, ge=1)
    steps: int = Field(default=5, ge=1)
    loss: Literal["ce", "margin"] = "ce"
    every: int = Field(default=1, ge=1)
    tail: float = Field(default=0.34, ge=0, le=1)
    robustness: tuple[float, ...] = (0.0, 0.2, 1.0)


class Settings(Section):
    """All plain values of a run except those of its model and its images."""

    name: str
    data: Augmentation = Field(default_factory=Augmentation)
    attack: AttackSection
    train: TrainSection
    device: DeviceSection = Field(default_factory=DeviceSection)
    select: SelectSection = Field(default_factory=SelectSection)
    policy: PolicySection = Field(default_factory=PolicySection)
    calibrate_dial: bool = False


S = TypeVar("S", bound=Settings)


def validated(kind: type[S], values: dict[str, Any]) -> S:
    """Validate plain values as settings of class `kind`; one-line ValueError with the nearest valid name."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_message(error, kind)) from None


def _message(error: ValidationError, kind: type[BaseModel]) -> str:
    """One line with what is missing and the first three mistakes, made from pydantic's error types and contexts."""
    parts = []
    problems = error.errors()
    missing = [p for p in problems if p["type"] == "missing"]
    for problem in missing + [p for p in problems if p["type"] != "missing"][:3]:
        place = ".".join(str(p) for p in problem["loc"])
        given, context = problem.get("input"), problem.get("ctx", {})
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown key {place!r}; {_nearest_key(place, kind, _section(kind, problem['loc']))}")
            continue
        if problem["type"] == "missing":
            parts.append(f"missing key {place!r}")
            continue
        text = str(context["error"]) if "error" in context else problem["msg"]
        if problem["type"] == "literal_error":
            field = _section(kind, problem["loc"]).model_fields[str(problem["loc"][-1])]
            text = nearest(str(given), get_args(field.annotation))
        shown = f" (given {given!r})" if isinstance(given, str | int | float) and repr(given) not in text else ""
        parts.append(f"{place or 'recipe'}: {text}{shown}")
    return "; ".join(parts)


def _nearest_key(place: str, kind: type[BaseModel], section: type[BaseModel]) -> str:
    """A hint at the intended key: the same name in another section, else the nearest name in this one.

    Without a section, the nearest name of any section counts too, if it is much like the given one.
    """
    name = place.rpartition(".")[2]
    fields = {k: getattr(f.annotation, "model_fields", {}) for k, f in kind.model_fields.items()}
    known = [*section.model_fields, *(n for names in fields.values() for n in names)] if name == place else []
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7) or [name]
    elsewhere = [repr(f"{k}.{close[0]}") for k, names in fields.items() if close[0] in names]
    return f"did you mean {' or '.join(elsewhere)}?" if elsewhere else nearest(name, section.model_fields)


def _section(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The section of a recipe that holds a key."""
    for part in location[:-1]:
        kind = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
    return model
