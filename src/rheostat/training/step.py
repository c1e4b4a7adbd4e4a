"""One training step: a method's terms → attacks → passes → gradients. It depends on terms, not on papers."""

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
"""(logits (n, K), labels (n,)) → the loss of each row (n,)."""


def training_attack(settings: Settings) -> Attack:
    """The training attack. It never drops rows, so its cost is fixed."""
    return settings.attack.for_training()


def warmed(attack: Attack | OwnAttack, settings: Settings, step: int, total: int) -> Attack | OwnAttack:
    """The training attack at a step: eps and step size rise over the warm-up's share of training."""
    share = (step + 1) / max(settings.attack.warmup * total, 1)
    if share >= 1 or not isinstance(attack, Attack):
        return attack
    return replace(attack, eps=attack.eps * share, step_size=attack.size * share)


def parameter_groups(model: Tunable) -> list[dict[str, Any]]:
    """The trained parameters in groups for an optimiser; parameters that a method exempts have no weight decay.

    Their gradients are allocated, never None: a parameter that a step does not use still decays, so that one rank and
    two take equal steps. All others lose theirs, so that an optimiser that holds them leaves them as they are.
    """
    exempt = {id(p) for p in model.method.undecayed(model.net)}
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in exempt]}]
    if others := [p for p in trained if id(p) in exempt]:
        groups.append({"params": others, "weight_decay": 0.0})
    return groups


def sgd(model: Tunable, settings: Settings) -> torch.optim.SGD:
    """SGD over the trained parameters, with the options of the settings."""
    train = settings.train
    return torch.optim.SGD(
        parameter_groups(model), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
    )


Group = tuple[Term, Tensor, Tensor | Callable[[], Tensor], Tensor]
"""A term of a step, its rows' images, the adversarial images (or a function that makes them), and the labels."""


__all__ = ["NonFinite", "Step", "batches", "parameter_groups", "sgd", "training_attack", "warmed"]


class NonFinite(ValueError):
    """A loss or a weight is infinite or NaN: training cannot go on."""


@dataclass
class Step:
    """The inputs of a training step other than the batch."""

    model: Tunable
    attack: Attack | OwnAttack
    ranks: Ranks
    smoothing: float = 0.0
    trades: float | None = None
    """The β of TRADES on adversarial rows, or None for cross-entropy."""
    attacked_smoothing: float | None = None
    """Label smoothing of attacked rows; None uses `smoothing` for these rows too."""
    awp: float = 0.0
    """The size of the weight perturbation before the gradient, as a share of each layer's norm."""
    loss: RowLoss | None = None
    """The loss of each row at each head, or None for cross-entropy."""
    class_weights: Tensor | None = None
    """(K,) factors of a row's loss by its label."""
    parts: int = 1
    """Number of parts of a batch that share one update of the weights."""

    def perturbed(
        self, term: Term, images: Tensor, labels: Tensor, seed: tuple[object, ...], share: tuple[Tensor, int]
    ) -> Tensor:
        """The images of a term: unchanged, or attacked at the term's point."""
        if term.images == "clean":
            return images
        # Weight noise has a separate stream, which is the same on every rank.
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
        """Accumulate the gradient of Σ weight·loss / B_global over the terms; return sums for the metrics.

        `images` and `labels` are this rank's rows of the global batch. All attacks run before any training pass, so
        they use the running statistics of the step's start; only the attacks of `late` terms run after the preceding
        terms and use the updated statistics.
        """
        groups = self.attacked(terms, images, labels, batch=batch, seed=seed)
        if not self.awp:
            return self._pass(groups, batch, seed, phase=Phase.TRAIN)
        if any(term.late for term in terms):
            raise ValueError("AWP perturbs the weights after all attacks; this method attacks between its passes")
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        # This is not a training pass: it updates no running statistics and no learned masks.
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
        """This rank's rows of each term: (term, images, adversarial images or a function that makes them, labels)."""
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
        """Forward and backward of one term after the other, so that only one term's graph is in memory."""
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
        """For each term: (kind, its part of the step's loss with the graph, its value, correct rows, rows)."""
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
        """(n,) the loss of each row, summed over the exits if there are any."""
        if self.loss is None:
            smoothing = self.smoothing
            if kind == "robust" and self.attacked_smoothing is not None:
                smoothing = self.attacked_smoothing
            return row_loss(output, labels, smoothing=smoothing)
        found = [self.loss(head, labels) for head in output.exits or (output.logits,)]
        for one in found:
            if one.shape != labels.shape:
                raise ValueError(
                    f"the loss returned shape {tuple(one.shape)} for {len(labels)} rows; it must return one number per "
                    "row (reduction='none')"
                )
        return torch.stack(found).sum(0)
