"""`Attack`, a value that names a kind and its budget, and `AttackKind`, the base of all kinds (one per file).

A kind registers itself: `@register class Theirs(AttackKind)`. It defines the grammar of its names, whether
rows of one batch may be at different points, and which tiers it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from rheostat.attacks.budget import Streams, check_budget, training_step_size
from rheostat.attacks.multi_exit import Candidates
from rheostat.attacks.objective import Objective, loss_named
from rheostat.runtime.choices import nearest
from rheostat.runtime.registry import Registry, origin_of

OF_THE_KIND: Any = None
"""The default of an `Attack` field whose value comes from its kind."""
DEFAULTS: Mapping[str, object] = {"steps": 20, "start": True, "momentum": 0.0, "loss": "ce"}
FIXED_DEFAULTS: Mapping[str, object] = {"restarts": 1, "form": "direct", "eot": 1, "drop": True}
"""The defaults of fields that no kind changes."""
STATED_IF_CHANGED = ("start", "momentum", "drop")
"""Settings that a row states only if they are not those that the attack's name implies."""
LAST = 4
"""An attack that runs in bf16 repeats 1/LAST of its steps in fp32: the last quarter."""
FIXED_TIERS = ("quick", "standard", "full")
"""Tiers that hold the same attacks in every installation, so that their rows can be compared."""


@dataclass(frozen=True)
class Attack:
    """An attack and its budget, as recipes, rows and the command line name it.

    `kind` is a key of the registry ("pgd", "fgsm", "square"); the kind supplies the fields that you omit.
    `eps` and `step_size` are in units of [0, 1]. `form` selects what is attacked: "direct" is the logits of
    the point, `Method.forms` lists others. `eot` is the number of draws a gradient is averaged over (1:
    deterministic). With `drop`, a row that is misclassified leaves the batch. `label` is the name in rows
    and in the seeds of random streams; by default it follows from the fields (pgd20-dlr).
    Raises ValueError for an unknown kind, norm or loss, and for a budget that the kind does not accept.
    """

    kind: str
    eps: float
    steps: int = OF_THE_KIND
    step_size: float | None = None
    norm: str = "linf"
    restarts: int = 1
    start: bool = OF_THE_KIND
    momentum: float = OF_THE_KIND
    loss: str = OF_THE_KIND
    form: str = "direct"
    eot: int = 1
    drop: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ATTACKS and _parsed(self.kind, eps=0.0, norm="linf", step_size=None) is not None:
            raise ValueError(f"{self.kind!r} is the name of an attack, not a kind; write named({self.kind!r}, eps=...)")
        kind = ATTACKS.get(self.kind)
        for field, value in {**DEFAULTS, **kind.defaults}.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        check_budget(self.norm, self.eps, self.steps)
        for what, given in (("step_size", self.step_size), ("momentum", self.momentum)):
            if given is not None and not 0 <= given < math.inf:  # nor is NaN
                raise ValueError(f"{what} must be finite and not negative, given {given:g}")
        loss_named(self.loss)
        if self.eot < 1:
            raise ValueError(f"eot, the number of draws, must be at least 1, given {self.eot}")
        if self.restarts < 1:
            raise ValueError(f"restarts, the number of starts, must be at least 1, given {self.restarts}")
        kind.check(self)

    @property
    def name(self) -> str:
        """The label, or by default the name that the kind's grammar gives these fields."""
        plain = ATTACKS.get(self.kind).text(self)
        return self.label or (plain if self.form == "direct" else f"{plain}@{self.form}")

    @property
    def rowwise(self) -> bool:
        """Whether rows of one batch may be at different points."""
        return ATTACKS.get(self.kind).rowwise

    @property
    def size(self) -> float:
        """The step size: the given one, or the one the kind's rule computes."""
        return ATTACKS.get(self.kind).step_size(self) if self.step_size is None else self.step_size

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError if this attack cannot run on images of this size."""
        ATTACKS.get(self.kind).check_size(self, height, width)

    def __call__(
        self,
        objective: Objective | Candidates,
        images: Tensor,
        generator: Streams = None,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """Adversarial images (B, C, H, W) for an objective that holds this attack's loss.

        `share` (rows, n): the images are these rows of a group of n; see `random_start`. Raises ValueError for images
        of a size that the attack cannot take.
        """
        self.check_size(*images.shape[-2:])
        objective = objective.averaged(self.eot)
        if isinstance(objective, Candidates):
            return objective.best([self(o, images, generator, share=share) for o in objective.objectives])
        return ATTACKS.get(self.kind).run(self, objective, images, generator, share=share)

    @property
    def last_steps(self) -> int:
        """The number of steps that `finish` makes: a quarter of `steps`, rounded up."""
        return -(-self.steps // LAST)

    @property
    def lowers(self) -> bool:
        """Whether its passes may use bf16, which requires that it can be finished in fp32."""
        return ATTACKS.get(self.kind).lowers and self.steps >= LAST

    def finish(self, objective: Objective | Candidates, images: Tensor, moved: Tensor) -> Tensor:
        """Repeat the last steps in fp32, starting from `moved`, the result of this attack on `images` in bf16."""
        objective = objective.averaged(self.eot)
        if isinstance(objective, Candidates):
            return objective.best([self.finish(o, images, moved) for o in objective.objectives])
        return ATTACKS.get(self.kind).finish(self, objective, images, moved)

    def row(self) -> dict[str, object]:
        """The `attack` entry of a result row; it states some settings only if they changed (`STATED_IF_CHANGED`)."""
        fields = asdict(self)
        for hidden in ("kind", "label", *STATED_IF_CHANGED):
            fields.pop(hidden)
        changed = {k: v for k, v in self.beyond_name().items() if k in STATED_IF_CHANGED}
        return {"name": self.name, **fields, "step_size": self.size, **changed}

    def beyond_name(self) -> dict[str, object]:
        """The settings that its name does not imply; for a name that no kind reads, those other than the defaults."""
        name, _, form = self.name.partition("@")
        known = _parsed(name, eps=self.eps, norm=self.norm, step_size=None)
        kind = ATTACKS.get(self.kind)
        implied = {"kind": self.kind, **FIXED_DEFAULTS, **DEFAULTS, **kind.defaults, "step_size": kind.step_size(self)}
        if known is not None:
            implied = asdict(known) | {"step_size": known.size, "form": form or "direct"}
        settings = asdict(self) | {"step_size": self.size}
        return {k: settings[k] for k in ("kind", "step_size", *DEFAULTS, *FIXED_DEFAULTS) if settings[k] != implied[k]}


@dataclass(frozen=True)
class TierEntry:
    """The tiers that an attack belongs to, its name in them and its `order`: lower numbers run first.

    With fewer than 4 classes `few_classes` replaces it, if given.
    """

    attack: str
    order: int
    tiers: tuple[str, ...]
    few_classes: str = ""


class AttackKind:
    """Base class of attack kinds; a subclass must set `name` and implement `run`."""

    name: ClassVar[str]
    grammar: ClassVar[tuple[str, ...]] = ()
    """Patterns of its names, as error messages show them: pgdN, pgdNxR."""
    rowwise: ClassVar[bool] = True
    """Whether rows of one batch may be at different points."""
    trains: ClassVar[bool] = True
    """Whether a recipe may train with it (`attack.kind`)."""
    uses: ClassVar[tuple[str, ...]] = ("steps", "step_size", "restarts", "loss")
    """The recipe keys that have an effect on it."""
    defaults: ClassVar[Mapping[str, object]] = {}
    """Its default steps, start, momentum and loss, where they differ from 20, True, 0 and "ce"."""
    tiers: ClassVar[tuple[TierEntry, ...]] = ()
    lowers: ClassVar[bool] = False
    """Whether its passes may use bf16; if so, the kind implements `finish`."""

    def finish(self, attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
        """Repeat the last steps in fp32 from `moved` (B, C, H, W), made in bf16; required if `lowers` is set."""
        raise TypeError(f"{type(self).__name__} does not implement finish")

    def run(
        self,
        attack: Attack,
        objective: Objective,
        images: Tensor,
        generator: Streams,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """Adversarial images (B, C, H, W) in the ball and in [0, 1]; `share` as in `random_start`."""
        raise TypeError(f"{type(self).__name__} does not implement run")

    def parse(self, text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
        """The attack with this name, or None if the name does not belong to this kind."""
        if text != self.name:
            return None
        return Attack(self.name, eps, step_size=step_size if "step_size" in self.uses else None, norm=norm)

    def text(self, attack: Attack) -> str:
        """The name of an attack of this kind."""
        return self.name

    def check(self, attack: Attack) -> None:
        """Raise ValueError for a budget that this kind does not accept."""

    def check_size(self, attack: Attack, height: int, width: int) -> None:
        """Raise ValueError for a size of images that this kind cannot take."""

    def step_size(self, attack: Attack) -> float:
        """The default step size."""
        return 2.5 * attack.eps / attack.steps

    def training(
        self, *, eps: float, norm: str, steps: int, step_size: float | None, restarts: int, loss: str
    ) -> Attack:
        """The attack of a recipe; it drops no row, so that every training step costs the same."""
        size = training_step_size(eps, steps) if step_size is None else step_size
        given = {"steps": steps, "step_size": size, "restarts": restarts, "loss": loss}
        used: dict[str, Any] = {key: value for key, value in given.items() if key in self.uses}
        return Attack(self.name, eps, norm=norm, drop=False, **used)


ATTACKS: Registry[AttackKind] = Registry("attack", group="rheostat.attacks")
K = TypeVar("K", bound=AttackKind)


def register(kind: type[K]) -> type[K]:
    """Class decorator that registers a kind of attack under its `name`.

    Raises ValueError if the name is taken, or if a kind of another package joins one of `FIXED_TIERS`.
    """
    for entry in kind.tiers:
        for tier in entry.tiers:
            if tier in FIXED_TIERS and kind.__module__.partition(".")[0] != "rheostat":
                raise ValueError(f"{kind.name}: the tier {tier!r} holds built-in attacks only; name another tier")
    ATTACKS.register(kind.name, kind(), origin=origin_of(kind))
    return kind


def _parsed(text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
    for kind in ATTACKS.values():
        found = kind.parse(text, eps=eps, norm=norm, step_size=step_size)
        if found is not None:
            return found
    return None


def named(text: str, *, eps: float, norm: str = "linf", step_size: float | None = None) -> Attack:
    """An evaluation attack by its name; each kind parses its own names.

    Names are `fgsm`, `mi-fgsm`, `pgdN`, `pgdNxR` with `-dlr`, `-margin` and `-eotN`, `apgd-ce`, `apgd-t`,
    `square`, `squareN`, `squareN-rescaled`, `autoattack`, and those of other packages. `NAME@FORM` attacks a
    form of a multi-exit model: pgd20@max-average. `eps` and `step_size` are in units of [0, 1]. Raises
    ValueError that lists the nearest name and all names.
    """
    name, at_form, form = text.partition("@")
    if at_form and not form:
        raise ValueError(f"no form after @ in {text!r}; write pgd20@average")
    attack = _parsed(name, eps=eps, norm=norm, step_size=step_size)
    if attack is None:
        grammar = [one for kind in ATTACKS.values() for one in kind.grammar]
        raise ValueError(f"no attack {name!r}; {nearest(name, grammar)} (pgd20, pgd50x5, pgd20-dlr-eot20, square200)")
    if at_form:
        if not attack.rowwise:
            raise ValueError(f"{name} attacks the final decision and takes no form; only PGD and FGSM take forms")
        attack = replace(attack, form=form)
    return attack if attack.name == text else replace(attack, label=text)
