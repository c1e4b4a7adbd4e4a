"""Objectives of attacks on multi-exit networks, over the stacked logits of all exits (n, E, K).

Single, average and max-average come from RDI-Nets (Hu et al., ICLR 2020, §3.2). Routed is new in this
library: it is the loss of the exit that the policy takes, softened so that the switch has a gradient.
Slowdown comes from DeepSloth (Hong et al., ICLR 2021): it keeps the input from leaving at any side exit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.attacks.objective import Loss, Objective
from rheostat.runtime.choices import check_choice

MEASURES = ("entropy", "max-probability", "margin")
SOFTNESS = 0.1
"""Width of the soft switch, as a fraction of the largest possible uncertainty."""


def uncertainty(logits: Tensor, measure: str) -> Tensor:
    """The uncertainty of a prediction, (..., K) → (...). An input leaves at an exit if it is below the threshold.

    "entropy" is that of the softmax, in nats; "max-probability" is 1 - the largest probability; "margin" is
    1 - the difference of the two largest. Raises ValueError for another measure.
    """
    check_choice("exits", "measure", measure, MEASURES)
    if measure == "entropy":
        log = F.log_softmax(logits, -1)
        return -(log.exp() * log).sum(-1)
    top = F.softmax(logits, -1).topk(2, -1).values
    return 1 - top[..., 0] + (top[..., 1] if measure == "margin" else 0)


def most(measure: str, classes: int) -> float:
    """The largest possible uncertainty."""
    return math.log(classes) if measure == "entropy" else 1.0


def taken(unsure: Tensor, thresholds: Tensor) -> Tensor:
    """(n, E - 1) uncertainties of side exits → (n,) the exit taken: the first below its threshold, else the last."""
    passes = unsure < thresholds
    last = unsure.shape[1]
    first = passes.to(torch.int64).argmax(1) if last else unsure.new_zeros(len(unsure)).long()
    return torch.where(passes.any(1), first, last)


def equal_shares(unsure: Tensor) -> Tensor:
    """(K,) thresholds at which each of the K side exits and the last one take equal shares of the rows."""
    rows, count = torch.ones(len(unsure), dtype=torch.bool, device=unsure.device), unsure.shape[1]
    found = []
    for k in range(count):
        here = unsure[rows, k]
        share = 1 / (count + 1 - k)
        found.append(here.quantile(share) if len(here) else unsure.new_tensor(0.0))
        rows = rows & ~(unsure[:, k] < found[-1])
    return torch.stack(found) if found else unsure.new_zeros(0)


def decision(thresholds: Tensor, measure: str) -> Callable[[Tensor], Tensor]:
    """A function that returns the policy's prediction from stacked logits, (n, E, K) → (n,)."""

    def decide(stack: Tensor) -> Tensor:
        exits = taken(uncertainty(stack[:, :-1], measure), _fitted(stack, thresholds, measure))
        return stack[torch.arange(len(stack), device=stack.device), exits].argmax(1)

    return decide


def _fitted(stack: Tensor, thresholds: Tensor, measure: str) -> Tensor:
    """The thresholds; while none are fitted (in training), thresholds of equal shares on this batch."""
    if len(thresholds) and bool(thresholds.isnan().any()):
        return equal_shares(uncertainty(stack[:, :-1].detach(), measure))
    return thresholds


def over_exits(loss: Loss) -> Loss:
    """A loss of stacked logits: the mean over exits."""

    def mean(stack: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([loss(stack[:, k], labels) for k in range(stack.shape[1])]).mean(0)

    return mean


def routed(thresholds: Tensor, measure: str, loss: Loss) -> Loss:
    """The expected loss of the exit taken, with a soft switch at each threshold.

    Exit k is taken with probability σ((T_k - u_k)/τ)·Π_{j<k}(1 - σ_j). The expectation also rises when
    probability moves to an exit with a higher loss, so the attack favours confident wrong exits.
    """

    def expected(stack: Tensor, labels: Tensor) -> Tensor:
        unsure = uncertainty(stack[:, :-1], measure)
        width = SOFTNESS * most(measure, stack.shape[-1])
        passes = torch.sigmoid((_fitted(stack, thresholds, measure) - unsure) / width)
        left, total = torch.ones_like(passes[:, 0]), torch.zeros_like(passes[:, 0])
        for k in range(passes.shape[1]):
            total = total + left * passes[:, k] * loss(stack[:, k], labels)
            left = left * (1 - passes[:, k])
        return total + left * loss(stack[:, -1], labels)

    return expected


COST_FORMS = ("slowdown",)
"""Forms that attack the cost of a prediction; they run on every image, also on misclassified ones."""


def slowdown(thresholds: Tensor, measure: str) -> Loss:
    """A loss whose maximum, 0, is reached when every uncertainty exceeds its threshold by a tenth of the range."""

    def short(stack: Tensor, labels: Tensor) -> Tensor:
        room = SOFTNESS * most(measure, stack.shape[-1])
        unsure = uncertainty(stack[:, :-1], measure)
        return -F.relu(_fitted(stack, thresholds, measure) + room - unsure).sum(1)

    return short


@dataclass(frozen=True)
class Candidates:
    """Several objectives, each attacked separately, and a score that selects the best image per example."""

    objectives: tuple[Objective, ...]
    score: Objective

    def only(self, rows: Tensor) -> Candidates:
        """The same candidates for some of the rows."""
        return Candidates(tuple(o.only(rows) for o in self.objectives), self.score.only(rows))

    def averaged(self, draws: int) -> Candidates:
        """The same candidates, averaged over several draws of a random network."""
        return Candidates(tuple(replace(o, draws=draws) for o in self.objectives), replace(self.score, draws=draws))

    def watched(self, note: Callable[[int], None]) -> Candidates:
        """The same candidates; each pass calls `note` with its number of images."""
        return Candidates(tuple(o.watched(note) for o in self.objectives), self.score.watched(note))

    def in_bf16(self) -> Candidates:
        """The same candidates, with bf16 products in their passes."""
        return Candidates(tuple(o.in_bf16() for o in self.objectives), self.score.in_bf16())

    def best(self, found: list[Tensor]) -> Tensor:
        """For each example, the candidate with the highest score; each entry of `found` is (B, C, H, W)."""
        with torch.no_grad():
            scores = torch.stack([self.score(images) for images in found])
        place = scores.argmax(0)
        return torch.stack(found)[place, torch.arange(len(place), device=place.device)]
