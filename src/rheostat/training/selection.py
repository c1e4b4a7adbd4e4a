"""Selection of one checkpoint for all λ, and checks that detect failing training."""

from __future__ import annotations

from typing import Any

import torch

from rheostat.attacks import Attack
from rheostat.data import Dataset, subset, to_pixels
from rheostat.evaluation.attacked import Outcome, worst_outcome
from rheostat.methods import Dual
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.precision import full_precision, resolved
from rheostat.training.settings import Settings

FEW = 16
"""Number of images on which two points are compared."""


def settings(model: Tunable, levels: tuple[float, ...]) -> tuple[Tunable, list[Point]]:
    """The model as training uses it (λ with "at-0", no dial map), and the points at which it is scored."""
    widths = model.dials["width"].values if "width" in model.dials else None
    spent = [Point(width=w) for w in widths or ()] or [Point()]
    if "robustness" not in model.dials:
        return model, spent
    view = model.between("at-0") if model.method.part(Dual) else model
    return view, [p.replace(robustness=level) for p in spent for level in levels]


def alike(model: Tunable, a: Point, b: Point, data: Dataset) -> bool:
    """Whether the model is one network at both points: no pass draws noise, and logits are equal bit for bit.

    Without conditioning, every λ above 0 of a dual norm "at-0" is such a point.
    """
    if any(model.method.randomised(model.complete(p)) for p in (a, b)):
        return False
    few = to_pixels(data.images[:FEW])
    with torch.no_grad(), full_precision():
        first, second = (model.read(few, model.resolve(p, few)) for p in (a, b))
    return torch.equal(first.logits, second.logits)


class Watch:
    """Scores a model on calibrate-fit after an epoch; it never sees test images."""

    def __init__(self, settings: Settings, fit: Dataset, *, epochs: int) -> None:
        select, attack = settings.select, settings.attack
        self.settings, self.epochs = settings, epochs
        self.fit = subset(fit, select.images)
        self.pgd = Attack("pgd", attack.eps, select.steps, norm=attack.norm, loss=select.loss)
        self.single = Attack("fgsm", attack.eps, norm=attack.norm, loss=select.loss)

    def may_select(self, epoch: int) -> bool:
        """Whether the weights after this epoch are candidates for selection."""
        return epoch > self.epochs * (1 - self.settings.select.tail) or epoch == self.epochs

    def score(self, model: Tunable, epoch: int, *, always: bool = False) -> dict[str, Any]:
        """SA and RA at each setting, their mean as `score`, and RA under one step at the last setting.

        A setting λ scores (1-λ)·SA + λ·RA, as in its loss; a model without a dial scores (SA + RA) / 2. With equal
        weights, RA at λ = 0, which is no objective and falls as training succeeds, would select weights from too
        early an epoch (on Fashion-MNIST the fourth of six, 4 points below the last in RA at λ = 1). An epoch that
        `select.every` leaves out has the score -1, unless it is `always` scored.
        """
        if not always and epoch % self.settings.select.every and epoch != self.epochs:
            return {"score": -1.0}
        view, points = settings(model, self.settings.select.robustness)
        low = resolved(self.settings.device.precision, self.fit.images.device) == "bf16"
        found: dict[Point, Outcome] = {}
        for point in reversed(points):  # the highest λ, by which flags are raised, is always measured
            same = next((o for p, o in found.items() if alike(view, p, point, self.fit)), None)
            found[point] = same or worst_outcome(view, point, self.fit, self.pgd, low=low)
        rows, total = [], 0.0
        for point in points:
            sa, ra = (float(bits.float().mean()) for bits in (found[point].clean, found[point].robust))
            rows.append({"at": point.numbers(), "clean_accuracy": sa, "robust_accuracy": ra})
            level = point.numbers().get("robustness", 0.5)
            total += (1 - level) * sa + level * ra
        single = self._single_step(view, points[-1], found[points[-1]])
        return {"score": total / len(points), "calibrate": rows, "single_step_accuracy": single}

    def _single_step(self, view: Tunable, point: Point, found: Outcome) -> float:
        """RA under one step; images that stand under PGD count as standing, and only those that fell are attacked."""
        if view.method.randomised(view.complete(point)):
            return float(worst_outcome(view, point, self.fit, self.single).robust.float().mean())
        rows = (found.clean & ~found.robust).nonzero()[:, 0]
        stood = int(found.robust.sum())
        if len(rows):
            fell = self.fit.only(rows.to(self.fit.labels.device))
            stood += int(worst_outcome(view, point, fell, self.single).robust.sum())
        return stood / len(self.fit)

    def flags(self, before: list[dict[str, Any]], line: dict[str, Any]) -> list[str]:
        """Raised flags: `fast-attack-collapse` and `robust-overfitting` (EVALUATION.md, checks)."""
        if "calibrate" not in line:
            return list(before[-1]["flags"]) if before else []
        raised = []
        robust = line["calibrate"][-1]["robust_accuracy"]
        single = line["single_step_accuracy"]
        past = [e for e in before if "calibrate" in e]
        best = max((e["calibrate"][-1]["robust_accuracy"] for e in past), default=robust)
        if past:
            gap_before = past[-1]["single_step_accuracy"] - past[-1]["calibrate"][-1]["robust_accuracy"]
            if robust < best - 0.1 and single - robust > max(gap_before, 0) + 0.1:
                raised.append("fast-attack-collapse")
            rising = line["train_robust_accuracy"] > past[-1]["train_robust_accuracy"]
            if robust < best - 0.03 and rising and line["epoch"] > self.epochs / 2:
                raised.append("robust-overfitting")
        return raised
