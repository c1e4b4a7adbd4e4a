"""The output of one pass of a model, the loss of its rows, and the inputs of an attack objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rheostat.attacks import Candidates, Objective
from rheostat.attacks.objective import Loss
from rheostat.points.resolved import Resolved


@dataclass(frozen=True)
class Output:
    """The output of one pass: the final logits (B, K), and those of side exits, if any."""

    logits: Tensor
    exits: tuple[Tensor, ...] = ()
    taken: Tensor | None = None
    """(B,) the exit that each row left by, if exits are live; else None."""
    features: Tensor | None = None
    """The input of the next stage, if the pass ended at an exit by command; else None."""


Read = Callable[[Tensor, Resolved], Output]


@dataclass(frozen=True)
class Attacked:
    """The inputs of an attack objective: the pass of the whole model, a point, labels (B,) and a loss."""

    read: Read
    at: Resolved
    labels: Tensor
    loss: Loss

    def objective(self, view: Callable[[Output], Tensor], *, at: Resolved | None = None) -> Objective:
        """The objective on logits that `view` takes from the pass's output, at `at` or the attack's own point."""
        at = self.at if at is None else at

        def forward(images: Tensor, rows: Tensor | None) -> Tensor:
            return view(self.read(images, at if rows is None else at.only(rows)))

        return Objective(forward, self.labels, self.loss)


Form = Callable[[Attacked], Objective | Candidates]


def row_loss(output: Output, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Training loss per row (B,): cross-entropy, summed over the exits if there are any."""
    heads: Sequence[Tensor] = output.exits or (output.logits,)
    losses = [F.cross_entropy(h, labels, reduction="none", label_smoothing=smoothing) for h in heads]
    return torch.stack(losses).sum(0)
