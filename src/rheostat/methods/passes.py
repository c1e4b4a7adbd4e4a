"""What one pass of a model gives, what the loss of its rows is, and what a form of attack is made of."""

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
    """What one pass gives: the logits (B, K) that count, and those of side exits, if any."""

    logits: Tensor
    exits: tuple[Tensor, ...] = ()
    taken: Tensor | None = None
    """(B,) which exit each row left by, where exits are live."""


Read = Callable[[Tensor, Resolved], Output]


@dataclass(frozen=True)
class Attacked:
    """What a form of attack is made of: the pass of the whole model, a point, labels (B,), a loss."""

    read: Read
    at: Resolved
    labels: Tensor
    loss: Loss

    def objective(self, view: Callable[[Output], Tensor], *, at: Resolved | None = None) -> Objective:
        """The objective on a view of the pass's output, at the point of the attack (or another)."""
        at = self.at if at is None else at

        def forward(images: Tensor, rows: Tensor | None) -> Tensor:
            return view(self.read(images, at if rows is None else at.only(rows)))

        return Objective(forward, self.labels, self.loss)


Form = Callable[[Attacked], Objective | Candidates]


def row_loss(output: Output, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Training loss per row (B,): cross-entropy, summed over the exits where there are any."""
    heads: Sequence[Tensor] = output.exits or (output.logits,)
    losses = [F.cross_entropy(h, labels, reduction="none", label_smoothing=smoothing) for h in heads]
    return torch.stack(losses).sum(0)
