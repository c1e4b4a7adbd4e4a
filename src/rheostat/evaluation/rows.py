"""The builder of all rows: of every attack and worst case, for every kind of attacker knowledge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from rheostat.attacks import Attack
from rheostat.data import Dataset
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.evaluation.tiers import VERSION, attacks_of, tier_names
from rheostat.models.artifact import versions
from rheostat.points.point import Point
from rheostat.results.intervals import accuracies
from rheostat.results.machine import hardware
from rheostat.results.row import AttackEntry, Measurement, Row

Knowledge = Literal["known", "transfer", "unknown", "chosen", "none"]


@dataclass(frozen=True)
class RowBuilder:
    """Builds the rows of one evaluation: a target on a data set, with its options.

    `precision` is that in which images are scored: fp32, or that of an exported file.
    """

    target: Target
    dataset: Dataset
    options: EvaluationOptions
    precision: str = "fp32"

    @cached_property
    def common(self) -> dict[str, Any]:
        """The fields that all rows share."""
        return self.target.described() | {
            "dataset": self.dataset.name,
            "dataset_hash": self.dataset.fingerprint,
            "split": self.options.split_of(self.dataset),
            "tier": self.options.tier,
            "tier_version": VERSION,
            "n": len(self.dataset),
            "seed": self.options.seed,
            "precision": self.precision,
            "attack_precision": self.options.attack_precision,
        }

    @property
    def artifact(self) -> str:
        """The hash of the model."""
        return str(self.common["artifact"])

    @property
    def split(self) -> str:
        """The split of the data."""
        return str(self.common["split"])

    @property
    def fingerprint(self) -> str:
        """The hash of the data."""
        return str(self.common["dataset_hash"])

    def measurement(
        self, at: Mapping[str, float], attack: AttackEntry, *, cumulative: bool = False, knowledge: Knowledge = "known"
    ) -> Measurement:
        """The identity of a row, before it is measured."""
        return Measurement(
            **self.common,
            at=dict(at),
            dial=self.target.dial(at),
            attack=attack,
            cumulative=cumulative,
            knowledge=knowledge,
        )

    def planned(
        self, point: Point | None, attacks: Sequence[Attack], lent: list[str] | None = None
    ) -> list[Measurement]:
        """The measurements of a point: one per attack, each on survivors of the earlier ones, and the worst case.

        `lent` are the points whose images a warm start may use; the warm start then comes first, as an attack.
        """
        at = point.numbers() if point is not None else {}
        eps, norm = attacks[0].eps, attacks[0].norm
        every = budgets(attacks)
        # A row depends on the attacks before it; a warm start lends the images of all of them.
        before = [budgets(attacks[:i]) if lent is None else every for i in range(len(attacks))]
        shown = [
            AttackEntry.model_validate({**a.row(), "budgets": known}) for a, known in zip(attacks, before, strict=True)
        ]
        if lent is not None:
            made_by = self.unless_of_tier([a.name for a in attacks])
            warm = AttackEntry(name="warm", eps=eps, norm=norm, eot=1, lent=lent, attacks=made_by, budgets=every)
            shown.insert(0, warm)
        worst = AttackEntry(name="worst", eps=eps, norm=norm, of=[a.name for a in shown], budgets=every)
        return [*(self.measurement(at, a, cumulative=i > 0) for i, a in enumerate(shown)), self.measurement(at, worst)]

    def unless_of_tier(self, names: list[str]) -> list[str] | None:
        """The names of attacks, or None if they are those of the tier, which a row names anyway."""
        tier, classes = self.options.tier, len(self.dataset.classes)
        return None if tier in tier_names() and names == attacks_of(tier, classes) else names

    def row(self, of: Measurement, clean: Tensor, robust: Tensor, **found: Any) -> Row:
        """The row of a measurement, from its bits (n,); `found` gives further fields."""
        fields: dict[str, Any] = dict(of) | accuracies(clean, robust)
        fields |= {"versions": versions(), "hardware": hardware(self.dataset.images.device)}
        return Row(**fields | found)


def budgets(attacks: Sequence[Attack]) -> list[dict[str, Any]] | None:
    """The settings of attacks that their names do not imply, for `AttackEntry.budgets`; None if there is none."""
    return [{"name": a.name, **changes} for a in attacks if (changes := a.beyond_name())] or None
