"""One training step: a method's terms → attacks → passes → gradients. It knows terms, not papers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rheostat import data
from rheostat.attacks import Attack, Objective
from rheostat.methods.base import Output, Term, row_loss
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.awp import perturb, restore
from rheostat.training.recipe import Recipe
from rheostat.training.trades import away_from, divergence


def training_attack(recipe: Recipe) -> Attack:
    """The attack inside training; no dropping, fixed cost."""
    return recipe.attack.for_training()


def warmed(attack: Attack, recipe: Recipe, step: int, total: int) -> Attack:
    """The training attack at a step: eps and step size rise over the warm-up's share of training."""
    share = (step + 1) / max(recipe.attack.warmup * total, 1)
    if share >= 1:
        return attack
    return replace(attack, eps=attack.eps * share, step_size=attack.size * share)


def sgd(model: Tunable, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters; those that a method exempts take no decay. Gradients are allocated."""
    exempt = {id(p) for p in model.method.undecayed(model.net)}
    decayed = [p for p in model.parameters() if id(p) not in exempt]
    others = [p for p in model.parameters() if id(p) in exempt]
    for parameter in model.parameters():
        # Always a tensor, never None: a parameter that a step does not use decays all the same, so
        # that one rank and two take equal steps.
        parameter.grad = torch.zeros_like(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": recipe.train.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=recipe.train.lr, momentum=recipe.train.momentum)


class NonFinite(ValueError):
    """A loss or a weight is infinite or NaN: training cannot go on."""


@dataclass
class Step:
    """What a training step needs beside the batch."""

    model: Tunable
    attack: Attack
    ranks: Ranks
    smoothing: float = 0.0
    trades: float | None = None
    """The β of TRADES on adversarial rows, or None for cross-entropy."""
    attacked_smoothing: float | None = None
    """Label smoothing of attacked rows, or None for that of all rows."""
    awp: float = 0.0
    """How far weights move before the gradient is taken, as a share of their norm."""

    def perturbed(
        self, term: Term, images: Tensor, labels: Tensor, seed: tuple[object, ...], share: tuple[Tensor, int]
    ) -> Tensor:
        """The images of a term: as they are, or attacked at the term's own point."""
        if term.images == "clean":
            return images
        # Noise on the weights is drawn from a stream of its own: the same on every rank.
        objective = self.model.objective(
            labels,
            term.at,
            loss=self.attack.loss,
            form=term.objective,
            phase=Phase.ATTACK,
            generator=stream(*seed, "noise"),
        )
        if self.trades is not None:
            assert isinstance(objective, Objective)
            objective = away_from(objective, images)
        return self.attack(objective, images, stream(*seed), share=share)

    def backward(
        self, terms: list[Term], images: Tensor, labels: Tensor, *, batch: int, seed: tuple[object, ...]
    ) -> dict[str, float]:
        """Accumulate the gradient of Σ weight·loss / B_global over the terms; sums for the metrics.

        `images` and `labels` are this rank's rows of the global batch. All attacks are made before
        any pass of training, so they see the running statistics of the step's start; but for terms that
        are `late`, whose attacks see what the terms before them have left.
        """
        first, last = self.ranks.share(batch)
        local = [t.local(first, last) for t in terms]
        groups: list[tuple[Term, Tensor, Tensor | Callable[[], Tensor], Tensor]] = []
        for i, (term, whole) in enumerate(zip(local, terms, strict=True)):
            rows = term.rows.to(images.device)
            share = (whole.within(first, last).nonzero()[:, 0], len(whole.rows))
            x, y = images[rows], labels[rows]
            attack = functools.partial(self.perturbed, term, x, y, (*seed, i), share)
            groups.append((term, x, attack if term.late else attack(), y))
        if not self.awp:
            return self._pass(groups, batch, seed, phase=Phase.TRAIN)
        if any(term.late for term in terms):
            raise ValueError("AWP moves weights once all attacks are made; this method attacks between its passes")
        parameters = list(self.model.parameters())
        # Not a pass of training: it moves no running statistic and no learned mask.
        attacked = [g if g[0].images != "clean" else None for g in groups]
        self._pass(attacked, batch, seed, phase=Phase.ATTACK)
        self.ranks.sum_gradients(parameters)
        moved = perturb(parameters, self.awp)
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.zero_()
        sums = self._pass(groups, batch, seed, phase=Phase.TRAIN)
        restore(moved)
        return sums

    def _pass(
        self,
        groups: Sequence[tuple[Term, Tensor, Tensor | Callable[[], Tensor], Tensor] | None],
        batch: int,
        seed: tuple[object, ...],
        *,
        phase: Phase,
    ) -> dict[str, float]:
        """Forward and backward of every term: (term, its images, what they became or become, labels)."""
        sums = {"loss": 0.0, "clean": 0.0, "clean_n": 0, "robust": 0.0, "robust_n": 0}
        across = self.ranks.world > 1
        for i, group in enumerate(groups):
            if group is None:
                continue
            term, before, x, y = group
            x = x() if callable(x) else x
            kind = "clean" if term.images == "clean" else "robust"
            paired = kind == "robust" and self.trades is not None
            point = term.at.doubled() if paired else term.at
            given = torch.cat((before, x)) if paired else x
            at = self.model.resolve(point, given, phase=phase, generator=stream(*seed, i, "pass"), across=across)
            for value in term.given:
                at = at.with_(value)
            output = self.model.read(given, at)
            logits = output.logits
            smoothing = self.smoothing
            if kind == "robust" and self.attacked_smoothing is not None:
                smoothing = self.attacked_smoothing
            if paired:
                assert self.trades is not None
                clean, logits = logits.chunk(2)
                loss = row_loss(Output(clean), y, smoothing=smoothing)
                loss = loss + self.trades * divergence(logits, clean)
            else:
                loss = row_loss(output, y, smoothing=smoothing)
            weight = term.weight
            weight = weight.to(loss) if isinstance(weight, Tensor) else weight
            total = (loss * weight).sum() / batch
            value = float(total.detach())
            if not math.isfinite(value):
                raise NonFinite(f"the loss of term {i} ({term.images} images, {len(y)} rows) is {value}")
            total.backward()
            sums["loss"] += value
            sums[kind] += float((logits.detach().argmax(1) == y).sum())
            sums[f"{kind}_n"] += len(y)
        return sums


def batches(train_set: data.Dataset, recipe: Recipe, step: int, per_epoch: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """This rank's rows of the global batch of a step: pixels and labels."""
    epoch, place = divmod(step, per_epoch)
    size = recipe.train.batch
    order = torch.randperm(len(train_set), generator=stream(recipe.train.seed, "order", epoch))
    first, last = ranks.share(size)
    device = train_set.images.device
    rows = order[place * size + first : place * size + last].to(device)
    drawn = data.augment(
        train_set.images[rows],
        recipe.data.augment,
        stream(recipe.train.seed, "augment", step),
        padding=recipe.data.padding,
        rows=slice(first, last),
        batch=size,
    )
    return data.to_pixels(drawn), train_set.labels[rows]
