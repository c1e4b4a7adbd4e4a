"""The options of an evaluation as one value; the other arguments of `evaluate` say what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rheostat.data import SPLITS, Dataset
from rheostat.runtime.choices import check_choice, nearest
from rheostat.runtime.precision import Asked

DEFAULT_SPLIT = "test"
"""The split that is measured if none is named."""


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of `evaluate`: everything except model, points, attacks and data.

    `split` and `tier` are recorded in the rows; `split` defaults to that of the data, or to "test" for data that do not
    name theirs. `out` is the file of rows; without it nothing is stored. `name` is
    the name of the run in rows; by default that of the target. `eps`, `norm` and `step_size` apply to attacks given
    by name: `eps` and `step_size` are in units of [0, 1], `eps` and `norm` default to those of the model's training,
    and `step_size` to 2.5·eps/steps. Another `norm` than that of the training needs `eps`.

    `warm`: each point first tries the adversarial images of the points before it. `transfer`: adds rows for attackers
    who made the images at another point, who do not know the point, and who choose it. `attack_precision` is the
    precision of attack gradients; "auto" is bf16 if the chip multiplies bf16 natively. Images are always scored in
    fp32; in bf16, images that do not fool repeat the last quarter of the steps in fp32. `probing`: run the checks that
    need additional attacks (None: in every tier except quick); True needs PGD among the attacks.
    `fresh`: drop stored results of this evaluation, and rows of this run that belong to another model or other data.
    Raises ValueError for an unknown split or precision.
    """

    split: str | None = None
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
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"no split {self.split!r}; {nearest(self.split, SPLITS)}")
        check_choice("evaluate", "attack precision", self.attack_precision, get_args(Asked))

    def split_of(self, data: Dataset) -> str:
        """The split that rows on these images name; ValueError if it is not the one that the options name."""
        if self.split is not None and data.split not in ("", self.split):
            raise ValueError(
                f"{data.name}: these images are of the split {data.split!r}, but the options say split={self.split!r}; "
                "leave split out, or pass the images of that split"
            )
        return self.split or data.split or DEFAULT_SPLIT

    @property
    def probes(self) -> bool:
        """Whether to run the checks that need additional attacks."""
        return self.tier != "quick" if self.probing is None else self.probing
