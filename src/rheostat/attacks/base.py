"""An attack as a value: what a recipe, a row and the command line name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from rheostat.attacks.autoattack import apgd, autoattack, square
from rheostat.attacks.multi_exit import Candidates
from rheostat.attacks.objective import Objective, loss_named
from rheostat.attacks.pgd import Streams, check_budget, n_fgsm, pgd


@dataclass(frozen=True)
class Attack:
    """A gradient attack and its budget, in units of [0, 1].

    `form` is what is attacked (direct: the logits of the point; others: `Method.forms`); `eot` the
    number of draws a gradient is averaged over (1: deterministic). With `drop`, rows that fell cost
    nothing more.
    """

    name: str
    eps: float
    steps: int = 20
    step_size: float | None = None
    norm: str = "linf"
    restarts: int = 1
    start: bool = True
    momentum: float = 0.0
    loss: str = "ce"
    form: str = "direct"
    eot: int = 1
    drop: bool = True

    def __post_init__(self) -> None:
        check_budget(self.norm, self.eps, self.steps)
        loss_named(self.loss)
        if self.eot < 1:
            raise ValueError(f"eot is a number of draws, at least 1, given {self.eot}")

    @property
    def rowwise(self) -> bool:
        """Whether rows of one batch may stand at different points; pyautoattack's attacks mix rows."""
        return not self.name.startswith(("apgd", "square", "autoattack"))

    @property
    def size(self) -> float:
        """The step size: as given, or 2.5·eps/steps."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

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
        one = generator[0] if isinstance(generator, Sequence) else generator
        seed = 0 if one is None else one.initial_seed()
        objective = objective.averaged(self.eot)
        if isinstance(objective, Candidates):
            return objective.best([self(o, images, generator, share=share) for o in objective.objectives])
        if self.name.startswith("apgd"):
            return apgd(
                objective,
                images,
                eps=self.eps,
                norm=self.norm,
                steps=self.steps,
                restarts=self.restarts,
                targeted=self.name == "apgd-t",
                seed=seed,
            )
        if self.name.startswith("square"):
            return square(objective, images, eps=self.eps, norm=self.norm, queries=self.steps, seed=seed)
        if self.name == "autoattack":
            return autoattack(objective, images, eps=self.eps, norm=self.norm, seed=seed)
        if self.name == "n-fgsm":
            return n_fgsm(objective, images, eps=self.eps, generator=generator, share=share)
        return pgd(
            objective,
            images,
            eps=self.eps,
            steps=self.steps,
            step_size=self.size,
            norm=self.norm,
            start=self.start,
            restarts=self.restarts,
            momentum=self.momentum,
            drop=self.drop and objective.decisive,
            generator=generator,
            share=share,
        )

    def row(self) -> dict[str, object]:
        """The `attack` entry of a result row."""
        out = asdict(self)
        for hidden in ("drop", "start", "momentum"):
            out.pop(hidden)
        return {**out, "step_size": self.size}


def named(text: str, *, eps: float, norm: str = "linf", step_size: float | None = None) -> Attack:
    """An evaluation attack by its name.

    `fgsm`, `mi-fgsm` (10 steps, momentum 1), `pgdN` and `pgdNxR` (N steps, R restarts), each of the
    latter with `-dlr` or `-margin` for another loss and `-eotN` for gradients averaged over N draws of
    a random network: pgd20, pgd50x5, pgd20-dlr, pgd20-eot20. pyautoattack's
    `apgd-ce`, `apgd-t` (targeted DLR), both of 100 steps, `square` (1 000 queries; squareN) and
    `autoattack` (its standard version: APGD-CE, APGD-T, FAB-T, Square of 5 000 queries).
    `NAME@FORM` attacks a form of a multi-exit model: pgd20@max-average.
    """
    if text == "fgsm":
        return Attack("fgsm", eps, 1, eps, norm, start=False)
    if text == "mi-fgsm":
        return Attack("mi-fgsm", eps, 10, step_size, norm, start=False, momentum=1.0)
    if text in ("apgd-ce", "apgd-t"):
        # Auto-PGD starts with a step of 2·eps and halves it by itself.
        return Attack(text, eps, 100, 2 * eps, norm, loss="ce" if text == "apgd-ce" else "dlr")
    if text == "autoattack":
        return Attack(text, eps, 100, 2 * eps, norm)
    name, at_form, form = text.partition("@")
    if at_form:
        if not form:
            raise ValueError(f"no form after @ in {text!r}; write pgd20@average")
        inner = named(name, eps=eps, norm=norm, step_size=step_size)
        if not inner.rowwise:
            raise ValueError(f"{name} attacks the decision itself; forms are for PGD and FGSM")
        return replace(inner, name=text, form=form)
    match = re.fullmatch(r"square(\d*)", text)
    if match is not None:
        return Attack(text, eps, int(match[1] or 1000), 2 * eps, norm, loss="margin")
    match = re.fullmatch(r"pgd(\d+)(?:x(\d+))?(?:-(ce|dlr|margin))?(?:-eot(\d+))?", text)
    if match is None or int(match[1]) < 1:
        raise ValueError(
            f"no attack {text!r}; allowed: fgsm, mi-fgsm, apgd-ce, apgd-t, square, squareN, autoattack, pgdN, "
            "pgdNxR, with -dlr or -margin and -eotN after these (pgd20, pgd50x5, pgd20-dlr-eot20)"
        )
    return Attack(
        text,
        eps,
        int(match[1]),
        step_size,
        norm,
        restarts=int(match[2] or 1),
        loss=match[3] or "ce",
        eot=int(match[4] or 1),
    )
