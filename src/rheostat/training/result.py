"""A finished run: its model, its recorded history, and its evaluation on new images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rheostat.data import Splits, subset
from rheostat.data.conversion import Form
from rheostat.data.given import measured, rule_of
from rheostat.evaluation.arguments import Attacks, Points, grouped
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models.artifact import About
from rheostat.models.tunable import Tunable
from rheostat.results.listed import Rows
from rheostat.runtime.markup import table
from rheostat.training.callbacks import call
from rheostat.training.checkpoint import Progress
from rheostat.training.recipe import Recipe
from rheostat.training.settings import Settings


@dataclass(frozen=True)
class Fitted:
    """A finished run: the selected model, its settings and folder, and the records of each epoch."""

    model: Tunable
    settings: Settings
    progress: Progress
    folder: Path
    about: About
    form: Form
    callbacks: Sequence[object] = ()

    def __repr__(self) -> str:
        flags = f", flags: {', '.join(self.flags)}" if self.flags else ""
        ended = f", stopped: {self.progress.stopped}" if self.progress.stopped else ""
        epoch = self.progress.best_epoch
        best = f", score {self.progress.best_score:.3f} in epoch {epoch}" if epoch > 0 else ""
        return f"{type(self).__name__}({self.folder}: {len(self.history)} epochs{best}{flags}{ended})"

    def _repr_html_(self) -> str:
        """HTML with the run, the validation accuracies of its last scored epoch, and the model."""
        scored = [line for line in self.history if line.get("calibrate")]
        found = scored[-1]["calibrate"] if scored else []
        lines = [
            (
                ", ".join(f"{k} = {v:g}" for k, v in one["at"].items()) or "the one point",
                f"{100 * one['clean_accuracy']:.1f}",
                f"{100 * one['robust_accuracy']:.1f}",
            )
            for one in found
        ]
        epoch = f"<p>Validation images, epoch {scored[-1]['epoch']}, positions in training λ:</p>" if scored else ""
        measured = table(("point", "SA %", "RA %"), lines) if lines else ""
        return f"<div><p>{escape(repr(self))}</p>{epoch}{measured}{self.model._repr_html_()}</div>"

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict per epoch: loss, accuracies on training and validation images, score, flags."""
        return self.progress.epochs

    @property
    def flags(self) -> list[str]:
        """The raised flags (`rheostat.results.flags` explains each)."""
        return self.progress.flags

    def evaluate(
        self,
        test_set: Any,
        points: Points = None,
        attacks: Attacks | None = None,
        *,
        examples: int | None = None,
        options: EvaluationOptions | None = None,
    ) -> Rows:
        """Evaluate the model at points under attacks, and return the rows, as `rheostat.evaluate` does.

        `test_set` is anything that `fit` accepts (of a DataLoader, the images that its sampler gives); `examples` takes
        a stratified subset of that many images. By default: every position of the dials, and the attacks of the tier
        "quick" at the training radius, in every form of attack at points with live exits, as on the command line.
        """
        rule = rule_of(test_set)
        if rule is not None and rule != self.form.preprocessing:
            raise ValueError(f"test_set has {rule}, the model was trained with {self.form.preprocessing}")
        dataset = subset(measured(test_set, self.form, "test_set"), examples)
        options = options or EvaluationOptions()
        target = Target(self.model, options.name or self.settings.name, about=self.about)
        rows = Rows(
            row
            for some, used in grouped(target, points, attacks, options, classes=len(dataset.classes))
            for row in evaluate(target, some, used, dataset, options=options)
        )
        call(self.callbacks, "on_evaluate", self, rows)
        return rows


@dataclass(frozen=True, repr=False)
class Trained(Fitted):
    """A finished run of a recipe, with the splits of its data set."""

    splits: Splits | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        assert isinstance(self.settings, Recipe)
        return self.settings
