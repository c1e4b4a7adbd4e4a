"""The objective that an attack maximises: images → one loss per row. An attack has no other access to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.runtime.choices import nearest
from rheostat.runtime.precision import low_precision

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """CE per row: logits (B, K), labels (B,) → (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit minus the true one, (B, K), (B,) → (B,) (Carlini & Wagner 2017); > 0: misclassified."""
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - true


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """DLR (Croce & Hein 2020), (B, K), (B,) → (B,): the margin over the difference of the 1st and 3rd largest logit.

    It does not depend on the scale of the logits. Raises ValueError for fewer than 3 classes: with two, the loss would
    be 1 or -1 and its gradient 0.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"the DLR loss needs at least 3 classes, this model has {logits.shape[1]}; use the loss 'margin' "
            "(pgd20-margin instead of pgd20-dlr)"
        )
    ordered = logits.sort(1, descending=True).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": difference_of_logits_ratio}


def loss_named(name: str) -> Loss:
    """An attack loss by its name: ce, margin or dlr. Raises ValueError for another name."""
    if name not in LOSSES:
        raise ValueError(f"no attack loss {name!r}; {nearest(name, LOSSES)}")
    return LOSSES[name]


def predicted(logits: Tensor) -> Tensor:
    """(n, K) logits → (n,) predicted classes."""
    return logits.argmax(1)


@dataclass(frozen=True)
class Objective:
    """Images (n, C, H, W) → the loss of each row (n,), for all rows of a batch or some of them.

    `forward(images, rows)` returns logits; `rows` lists the rows of the batch that the images belong to
    (None: all). A row has *fallen* when its prediction differs from its label. `draws` above 1 is for
    random networks: the loss and its gradient are averages over that many passes, and a majority of the
    passes decides whether a row has fallen (expectation over transformations, Athalye et al. 2018).
    """

    forward: Callable[[Tensor, Tensor | None], Tensor]
    labels: Tensor
    loss: Loss = cross_entropy
    rows: Tensor | None = None
    draws: int = 1
    decide: Callable[[Tensor], Tensor] = predicted
    """(n, ...) output of `forward` → (n,) predicted class."""
    decisive: bool = True
    """Whether `decide` is the decision that is scored; if so, an attack may stop at a row that has fallen."""

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(loss (n,), fallen (n,) bool) of one pass, or over `draws` passes."""
        if self.draws > 1:
            found = [self._once(images) for _ in range(self.draws)]
            return torch.stack([v for v, _ in found]).mean(0), majority([f for _, f in found])
        return self._once(images)

    def _once(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.forward(images, self.rows)
        labels = self.labels if self.rows is None else self.labels[self.rows]
        return self.loss(logits, labels), self.decide(logits.detach()) != labels

    def __call__(self, images: Tensor) -> Tensor:
        return self.judge(images)[0]

    def averaged(self, draws: int) -> Objective:
        """The same objective, averaged over several draws of a random network."""
        return replace(self, draws=draws)

    def watched(self, note: Callable[[int], None]) -> Objective:
        """The same objective; each pass calls `note` with its number of images."""

        def forward(images: Tensor, rows: Tensor | None) -> Tensor:
            note(len(images))
            return self.forward(images, rows)

        return replace(self, forward=forward)

    def in_bf16(self) -> Objective:
        """The same objective with bf16 products in its passes; losses and decisions are computed in fp32."""

        def forward(images: Tensor, rows: Tensor | None) -> Tensor:
            with low_precision(images.device):
                return self.forward(images, rows).float()

        return replace(self, forward=forward)

    def only(self, rows: Tensor) -> Objective:
        """The same objective for some of its rows; `rows` is an int64 index into them."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])


def objective_of(model: nn.Module, labels: Tensor, *, loss: str = "ce") -> Objective:
    """The objective of any module that maps images to logits; the module is used in its current mode.

    Raises ValueError for an unknown `loss`.
    """

    def forward(images: Tensor, rows: Tensor | None) -> Tensor:
        logits: Tensor = model(images)
        return logits

    return Objective(forward, labels, loss_named(loss))


def majority(votes: list[Tensor]) -> Tensor:
    """(n,) bool: whether more than half of the (n,) votes are true, row by row."""
    return torch.stack(votes).float().mean(0) > 0.5


def gradient(objective: Objective, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of the summed loss with respect to the images, loss, fallen); changes no other gradient.

    With several draws each pass is differentiated separately, so memory does not grow with the draws.
    """
    if objective.draws > 1:
        single = replace(objective, draws=1)
        grads, losses, falls = zip(*(gradient(single, images) for _ in range(objective.draws)), strict=True)
        return torch.stack(grads).mean(0), torch.stack(losses).mean(0), majority(list(falls))
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        loss, fallen = objective.judge(leaf)
        if not loss.requires_grad:  # the module detaches its graph: there is no gradient, and a check reports it
            return torch.zeros_like(images), loss, fallen
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return grad.detach(), loss.detach(), fallen
