"""What an attack is: a value that names a kind and its budget, and the kinds, each in a file of its own.

A kind registers itself: `@register class Theirs(AttackKind)`. It brings the grammar of its names, says whether
rows of one batch may stand at different points and which tiers it belongs to.
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
"""The default of a field of `Attack` whose value the kind gives."""
DEFAULTS: Mapping[str, object] = {"steps": 20, "start": True, "momentum": 0.0, "loss": "ce"}
LAST = 4
"""An attack made in bf16 is finished in fp32 by this part of its steps: the last quarter."""
FIXED_TIERS = ("quick", "standard", "full")
"""Tiers that mean the same attacks everywhere, so that their rows can be compared."""


@dataclass(frozen=True)
class Attack:
    """An attack and its budget, in units of [0, 1]: what a recipe, a row and the command line name.

    `kind` is a key of the registry ("pgd", "fgsm", "square"); what is not given is the kind's own. `form` is
    what is attacked (direct: the logits of the point; others: `Method.forms`); `eot` the number of draws a
    gradient is averaged over (1: deterministic). With `drop`, rows that fell cost nothing more. `label` is
    the name in rows and in the seeds of random streams; without one it follows from the fields (pgd20-dlr).
    Raises ValueError for an unknown kind, norm or loss, and for a budget that the kind does not take.
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
            raise ValueError(f"{self.kind!r} is an attack's name, not its kind; write named({self.kind!r}, eps=...)")
        kind = ATTACKS.get(self.kind)
        for field, value in {**DEFAULTS, **kind.defaults}.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        check_budget(self.norm, self.eps, self.steps)
        for what, given in (("step_size", self.step_size), ("momentum", self.momentum)):
            if given is not None and not 0 <= given < math.inf:  # nor is NaN
                raise ValueError(f"{what} is finite and not negative, given {given:g}")
        loss_named(self.loss)
        if self.eot < 1:
            raise ValueError(f"eot is a number of draws, at least 1, given {self.eot}")
        kind.check(self)

    @property
    def name(self) -> str:
        """The label, or the name that the fields have in the kind's grammar."""
        plain = ATTACKS.get(self.kind).text(self)
        return self.label or (plain if self.form == "direct" else f"{plain}@{self.form}")

    @property
    def rowwise(self) -> bool:
        """Whether rows of one batch may stand at different points."""
        return ATTACKS.get(self.kind).rowwise

    @property
    def size(self) -> float:
        """The step size: as given, or the kind's rule."""
        return ATTACKS.get(self.kind).step_size(self) if self.step_size is None else self.step_size

    def __call__(
        self,
        objective: Objective | Candidates,
        images: Tensor,
        generator: Streams = None,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """Adversarial images for an objective that holds this attack's loss.

        `share` (rows, n) says which rows of a group of n the images are; see `random_start`.
        """
        objective = objective.averaged(self.eot)
        if isinstance(objective, Candidates):
            return objective.best([self(o, images, generator, share=share) for o in objective.objectives])
        return ATTACKS.get(self.kind).run(self, objective, images, generator, share=share)

    @property
    def last_steps(self) -> int:
        """How many steps `finish` makes: a quarter of them, rounded up."""
        return -(-self.steps // LAST)

    @property
    def lowers(self) -> bool:
        """Whether its passes may be of bf16, for it can be finished in fp32."""
        return ATTACKS.get(self.kind).lowers and self.steps >= LAST

    def finish(self, objective: Objective | Candidates, images: Tensor, moved: Tensor) -> Tensor:
        """The last steps once more, from where an attack on the same images in bf16 ended (`moved`)."""
        objective = objective.averaged(self.eot)
        if isinstance(objective, Candidates):
            return objective.best([self.finish(o, images, moved) for o in objective.objectives])
        return ATTACKS.get(self.kind).finish(self, objective, images, moved)

    def row(self) -> dict[str, object]:
        """The `attack` entry of a result row."""
        fields = asdict(self)
        for hidden in ("kind", "label", "drop", "start", "momentum"):
            fields.pop(hidden)
        return {"name": self.name, **fields, "step_size": self.size}


@dataclass(frozen=True)
class TierEntry:
    """An attack's part in tiers: its name there, and `order`, which says after which others it runs.

    With fewer than 4 classes `few_classes` takes its place, if given.
    """

    attack: str
    order: int
    tiers: tuple[str, ...]
    few_classes: str = ""


class AttackKind:
    """Abstract kind of attack; `run` alone must be written, and `name` given."""

    name: ClassVar[str]
    grammar: ClassVar[tuple[str, ...]] = ()
    """Its names as messages show them: pgdN, pgdNxR."""
    rowwise: ClassVar[bool] = True
    """Whether rows of one batch may stand at different points."""
    trains: ClassVar[bool] = True
    """Whether a recipe may train with it (`attack.kind`)."""
    uses: ClassVar[tuple[str, ...]] = ("steps", "step_size", "restarts", "loss")
    """Which of a recipe's keys have an effect on it."""
    defaults: ClassVar[Mapping[str, object]] = {}
    """Its own steps, start, momentum and loss, where they are not 20, True, 0 and "ce"."""
    tiers: ClassVar[tuple[TierEntry, ...]] = ()
    lowers: ClassVar[bool] = False
    """Whether its passes may be of bf16: it then has `finish`."""

    def finish(self, attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
        """Its last steps in fp32, from images (B, C, H, W) that it made in bf16; needed where it `lowers`."""
        raise TypeError(f"{type(self).__name__} does not say how it is finished")

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
        raise TypeError(f"{type(self).__name__} does not say how it runs")

    def parse(self, text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
        """The attack that a name means, or None if the name is not of this kind."""
        if text != self.name:
            return None
        return Attack(self.name, eps, step_size=step_size if "step_size" in self.uses else None, norm=norm)

    def text(self, attack: Attack) -> str:
        """The name of an attack of this kind."""
        return self.name

    def check(self, attack: Attack) -> None:
        """ValueError for a budget that this kind does not take."""

    def step_size(self, attack: Attack) -> float:
        """The step size where none is given."""
        return 2.5 * attack.eps / attack.steps

    def training(
        self, *, eps: float, norm: str, steps: int, step_size: float | None, restarts: int, loss: str
    ) -> Attack:
        """The attack of a recipe: no row is dropped, so that a step costs the same throughout."""
        size = training_step_size(eps, steps) if step_size is None else step_size
        given = {"steps": steps, "step_size": size, "restarts": restarts, "loss": loss}
        used: dict[str, Any] = {key: value for key, value in given.items() if key in self.uses}
        return Attack(self.name, eps, norm=norm, drop=False, **used)


ATTACKS: Registry[AttackKind] = Registry("attack", group="rheostat.attacks")
K = TypeVar("K", bound=AttackKind)


def register(kind: type[K]) -> type[K]:
    """Enter a kind of attack by its `name`; a class decorator.

    ValueError if the name is taken, or if a kind of another package enters a tier of ours.
    """
    for entry in kind.tiers:
        for tier in entry.tiers:
            if tier in FIXED_TIERS and kind.__module__.partition(".")[0] != "rheostat":
                raise ValueError(f"{kind.name}: the tier {tier!r} is the same everywhere; name a tier of your own")
    ATTACKS.register(kind.name, kind(), origin=origin_of(kind))
    return kind


def _parsed(text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
    for kind in ATTACKS.values():
        found = kind.parse(text, eps=eps, norm=norm, step_size=step_size)
        if found is not None:
            return found
    return None


def named(text: str, *, eps: float, norm: str = "linf", step_size: float | None = None) -> Attack:
    """An evaluation attack by its name, which each kind reads in its own grammar.

    `fgsm`, `mi-fgsm`, `pgdN`, `pgdNxR` with `-dlr`, `-margin` and `-eotN`, `apgd-ce`, `apgd-t`, `square`,
    `squareN`, `squareN-rescaled`, `autoattack`, and those of other packages. `NAME@FORM` attacks a form of a
    multi-exit model: pgd20@max-average. ValueError names the nearest and all there are.
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
            raise ValueError(f"{name} attacks the decision itself; forms are for PGD and FGSM")
        attack = replace(attack, form=form)
    return attack if attack.name == text else replace(attack, label=text)
