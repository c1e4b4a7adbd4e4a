"""One training step: a method's terms → attacks → passes → gradients. It knows terms, not papers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rheostat.attacks import Attack, Objective
from rheostat.methods.base import Output, Term, row_loss
from rheostat.models.tunable import Tunable
from rheostat.points.phase import Phase
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.attacks import OwnAttack
from rheostat.training.awp import perturb, restore
from rheostat.training.feed import batches
from rheostat.training.settings import Settings
from rheostat.training.trades import away_from, divergence

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, K), labels (n,) → the loss of each row (n,)."""


def training_attack(settings: Settings) -> Attack:
    """The attack inside training; no dropping, fixed cost."""
    return settings.attack.for_training()


def warmed(attack: Attack | OwnAttack, settings: Settings, step: int, total: int) -> Attack | OwnAttack:
    """The training attack at a step: eps and step size rise over the warm-up's share of training."""
    share = (step + 1) / max(settings.attack.warmup * total, 1)
    if share >= 1 or not isinstance(attack, Attack):
        return attack
    return replace(attack, eps=attack.eps * share, step_size=attack.size * share)


def parameter_groups(model: Tunable) -> list[dict[str, Any]]:
    """The parameters that are trained, for an optimiser: those that a method exempts take no decay.

    Gradients are allocated: always a tensor, never None. A parameter that a step does not use decays all the same, so
    that one rank and two take equal steps.
    """
    exempt = {id(p) for p in model.method.undecayed(model.net)}
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in exempt]}]
    if others := [p for p in trained if id(p) in exempt]:
        groups.append({"params": others, "weight_decay": 0.0})
    return groups


def sgd(model: Tunable, settings: Settings) -> torch.optim.SGD:
    """SGD over the parameters that are trained, as the settings say."""
    train = settings.train
    return torch.optim.SGD(
        parameter_groups(model), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
    )


Group = tuple[Term, Tensor, Tensor | Callable[[], Tensor], Tensor]
"""A term of a step with its rows: their images, what the attack made of them (or a call that makes it), labels."""


__all__ = ["NonFinite", "Step", "batches", "parameter_groups", "sgd", "training_attack", "warmed"]


class NonFinite(ValueError):
    """A loss or a weight is infinite or NaN: training cannot go on."""


@dataclass
class Step:
    """What a training step needs beside the batch."""

    model: Tunable
    attack: Attack | OwnAttack
    ranks: Ranks
    smoothing: float = 0.0
    trades: float | None = None
    """The β of TRADES on adversarial rows, or None for cross-entropy."""
    attacked_smoothing: float | None = None
    """Label smoothing of attacked rows, or None for that of all rows."""
    awp: float = 0.0
    """How far weights move before the gradient is taken, as a share of their norm."""
    loss: RowLoss | None = None
    """The loss of a row at each head, or None for cross-entropy."""
    class_weights: Tensor | None = None
    """(K,) what a row's loss is multiplied by, by its label."""
    parts: int = 1
    """How many parts of a batch, each a step of its own, share one update of the weights."""

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
        groups = self.attacked(terms, images, labels, batch=batch, seed=seed)
        if not self.awp:
            return self._pass(groups, batch, seed, phase=Phase.TRAIN)
        if any(term.late for term in terms):
            raise ValueError("AWP moves weights once all attacks are made; this method attacks between its passes")
        parameters = [p for p in self.model.parameters() if p.requires_grad]
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

    def attacked(
        self, terms: list[Term], images: Tensor, labels: Tensor, *, batch: int, seed: tuple[object, ...]
    ) -> list[Group]:
        """Each term's rows of this rank: (term, images, what the attack made of them or will make, labels)."""
        first, last = self.ranks.share(batch)
        local = [t.local(first, last) for t in terms]
        groups: list[Group] = []
        for i, (term, whole) in enumerate(zip(local, terms, strict=True)):
            rows = term.rows.to(images.device)
            share = (whole.within(first, last).nonzero()[:, 0], len(whole.rows))
            x, y = images[rows], labels[rows]
            attack = functools.partial(self.perturbed, term, x, y, (*seed, i), share)
            groups.append((term, x, attack if term.late else attack(), y))
        return groups

    def _pass(
        self, groups: Sequence[Group | None], batch: int, seed: tuple[object, ...], *, phase: Phase
    ) -> dict[str, float]:
        """Forward and backward of every term, one after the other, so that memory is that of one."""
        sums = {"loss": 0.0, "clean": 0.0, "clean_n": 0, "robust": 0.0, "robust_n": 0}
        for kind, total, value, right, count in self.losses(groups, batch, seed, phase=phase):
            total.backward()
            sums["loss"] += value
            sums[kind] += float(right)
            sums[f"{kind}_n"] += count
        return sums

    def losses(
        self, groups: Sequence[Group | None], batch: int, seed: tuple[object, ...], *, phase: Phase
    ) -> Iterator[tuple[str, Tensor, float, Tensor, int]]:
        """Each term's (kind, part of the step's loss with its graph, its value, rows that are right, rows)."""
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
            if paired:
                assert self.trades is not None
                clean, logits = logits.chunk(2)
                loss = self._row_loss(Output(clean), y, kind)
                loss = loss + self.trades * divergence(logits, clean)
            else:
                loss = self._row_loss(output, y, kind)
            weight = term.weight
            weight = weight.to(loss) if isinstance(weight, Tensor) else weight
            if self.class_weights is not None:
                loss = loss * self.class_weights.to(loss)[y]
            total = (loss * weight).sum() / (batch * self.parts)
            value = float(total.detach())
            if not math.isfinite(value):
                raise NonFinite(f"the loss of term {i} ({term.images} images, {len(y)} rows) is {value}")
            yield kind, total, value, (logits.detach().argmax(1) == y).sum(), len(y)

    def _row_loss(self, output: Output, labels: Tensor, kind: str) -> Tensor:
        """(n,) the loss of each row, summed over the exits where there are any."""
        if self.loss is None:
            smoothing = self.smoothing
            if kind == "robust" and self.attacked_smoothing is not None:
                smoothing = self.attacked_smoothing
            return row_loss(output, labels, smoothing=smoothing)
        found = [self.loss(head, labels) for head in output.exits or (output.logits,)]
        for one in found:
            if one.shape != labels.shape:
                raise ValueError(
                    f"the loss gave shape {tuple(one.shape)} for {len(labels)} rows; it gives one number a row "
                    "(reduction='none')"
                )
        return torch.stack(found).sum(0)
