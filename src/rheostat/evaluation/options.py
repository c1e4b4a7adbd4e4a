"""How an evaluation is made, as one value; what is measured are the arguments of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rheostat.data import SPLITS
from rheostat.runtime.choices import check_choice, nearest
from rheostat.runtime.precision import Asked


@dataclass(frozen=True)
class EvaluationOptions:
    """Everything beside model, points, attacks and data.

    `split`: what the data are, as rows say it. `tier`: the tier that the attacks are of, as rows say it.
    `out`: the file of rows; without one, nothing is kept. `name`: what rows call the run; by default the
    target's own. `eps`, `norm` and `step_size`: for attacks given by name (`eps` in [0, 1]; by default
    that of the model's training; the step size 2.5·eps/steps).

    `warm`: at each point the images found at points before it are tried first. `transfer`: adds rows for
    an attacker who made the images elsewhere, who does not know the point, and who may choose it.
    `attack_precision`: that of attacks' gradients; "auto" is bf16 where the chip multiplies it itself. Images are
    judged in fp32, and those that do not fool are attacked once more in fp32 by the last quarter of the steps.
    `probing`: checks that cost attacks of their own (None: in every tier but quick). `fresh`: drop
    what is there of this evaluation, and rows of this run that are of another model or other data.
    """

    split: str = "test"
    tier: str = "quick"
    out: Path | None = None
    name: str | None = None
    seed: int = 0
    eps: float | None = None
    norm: str | None = None
    step_size: float | None = None
    warm: bool = False
    transfer: bool = False
    probing: bool | None = None
    attack_precision: Asked = "fp32"
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"no split {self.split!r}; {nearest(self.split, SPLITS)}")
        check_choice("evaluate", "attack precision", self.attack_precision, get_args(Asked))

    @property
    def probes(self) -> bool:
        """Whether the checks that cost attacks are made."""
        return self.tier != "quick" if self.probing is None else self.probing
