"""Projected gradient attacks with random starts, restarts and momentum (L∞, L2). Source: Madry et al., ICLR 2018.

`pgd` is a function (objective, images) → images. It has no access to the model; the caller classifies the
returned images to measure success.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from rheostat.attacks.base import Attack, AttackKind, TierEntry, register
from rheostat.attacks.budget import Streams, check_budget, mean_size, per_row, project, random_start, unit
from rheostat.attacks.objective import Objective, gradient


def _ascent(grad: Tensor, norm: str) -> Tensor:
    return grad.sign() if norm == "linf" else unit(grad, per_row)


def pgd(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float | None = None,
    norm: str = "linf",
    start: bool | Tensor = True,
    restarts: int = 1,
    momentum: float = 0.0,
    drop: bool = False,
    generator: Streams = None,
    share: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Adversarial images (B, C, H, W) in the eps-ball and in [0, 1].

    `eps` and `step_size` are in units of [0, 1]; `step_size` defaults to 2.5·eps/steps. `start` is True
    (uniform in the ball, drawn anew at each restart; `share` as in `random_start`), False (the clean
    image) or a δ (B, C, H, W). With `momentum` the steps follow the accumulated L1-normalised gradient
    (MI-FGSM). With `drop`, a row leaves the batch at its first misclassified iterate. Without it the
    last iterate is returned, and with `restarts` the last iterate with the highest loss.
    Raises ValueError for a bad norm, eps, number of steps or number of restarts.
    """
    check_budget(norm, eps, steps)
    size = 2.5 * eps / steps if step_size is None else step_size
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, given {restarts}")
    best = images.detach().clone()
    standing = torch.arange(len(images), device=images.device)
    best_loss: Tensor | None = None
    for _ in range(restarts):
        if not len(standing):
            break
        clean = images.detach()[standing]
        if isinstance(start, Tensor):
            delta = start[standing]
        elif start:
            # Drawn for the whole batch: a row's start does not depend on which rows are still active.
            delta = random_start(images, eps, norm, generator, share)[standing]
        else:
            delta = torch.zeros_like(clean)
        moved = (clean + project(delta, eps, norm)).clamp(0, 1)
        narrowed = objective if len(standing) == len(images) else objective.only(standing)
        if drop:
            moved, fallen = _climb_dropping(
                narrowed, clean, moved, eps=eps, steps=steps, size=size, norm=norm, momentum=momentum
            )
            best[standing] = moved
            standing = standing[~fallen]
            continue
        moved = _climb(narrowed, clean, moved, eps=eps, steps=steps, size=size, norm=norm, momentum=momentum)
        if restarts == 1:
            return moved
        with torch.no_grad():
            loss = objective(moved)
        if best_loss is None:
            best, best_loss = moved, loss
        else:
            better = loss > best_loss
            best = torch.where(better[:, None, None, None], moved, best)
            best_loss = torch.maximum(loss, best_loss)
    return best


def _step(moved: Tensor, clean: Tensor, direction: Tensor, *, size: float, eps: float, norm: str) -> Tensor:
    delta = moved + size * _ascent(direction, norm) - clean
    return (clean + project(delta, eps, norm)).clamp(0, 1)


def _accumulate(velocity: Tensor | None, grad: Tensor, momentum: float) -> Tensor:
    if not momentum:
        return grad
    scaled = unit(grad, mean_size)
    return scaled if velocity is None else momentum * velocity + scaled


def _climb(
    objective: Objective,
    clean: Tensor,
    moved: Tensor,
    *,
    eps: float,
    steps: int,
    size: float,
    norm: str,
    momentum: float,
) -> Tensor:
    velocity: Tensor | None = None
    for _ in range(steps):
        grad, _, _ = gradient(objective, moved)
        velocity = _accumulate(velocity, grad, momentum)
        moved = _step(moved, clean, velocity, size=size, eps=eps, norm=norm)
    return moved


def _climb_dropping(
    objective: Objective,
    clean: Tensor,
    moved: Tensor,
    *,
    eps: float,
    steps: int,
    size: float,
    norm: str,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """(images, fallen): like `_climb`, but a row leaves the batch as soon as an iterate is misclassified."""
    result = moved.clone()
    fallen_at_last = torch.zeros(len(moved), dtype=torch.bool, device=moved.device)
    active = torch.arange(len(moved), device=moved.device)
    velocity: Tensor | None = None
    for step in range(steps + 1):
        current = objective if len(active) == len(result) else objective.only(active)
        if step == steps:
            with torch.no_grad():
                _, fallen = current.judge(moved)
            grad = moved
        else:
            grad, _, fallen = gradient(current, moved)
        result[active] = moved
        fallen_at_last[active] = fallen
        if step == steps:
            break
        if bool(fallen.any()):
            keep = ~fallen
            active, moved, grad = active[keep], moved[keep], grad[keep]
            velocity = None if velocity is None else velocity[keep]
            if not len(active):
                break
        velocity = _accumulate(velocity, grad, momentum)
        moved = _step(moved, clean[active], velocity, size=size, eps=eps, norm=norm)
    return result, fallen_at_last


class Climbing(AttackKind):
    """Base of the attacks that run `pgd` with their own settings."""

    lowers = True

    def finish(self, attack: Attack, objective: Objective, images: Tensor, moved: Tensor) -> Tensor:
        return pgd(
            objective,
            images,
            eps=attack.eps,
            steps=attack.last_steps,
            step_size=attack.size,
            norm=attack.norm,
            start=moved - images,
            momentum=attack.momentum,
            drop=attack.drop and objective.decisive,
        )

    def run(
        self,
        attack: Attack,
        objective: Objective,
        images: Tensor,
        generator: Streams,
        *,
        share: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        return pgd(
            objective,
            images,
            eps=attack.eps,
            steps=attack.steps,
            step_size=attack.size,
            norm=attack.norm,
            start=attack.start,
            restarts=attack.restarts,
            momentum=attack.momentum,
            drop=attack.drop and objective.decisive,
            generator=generator,
            share=share,
        )


@register
class PGD(Climbing):
    """`pgdN` and `pgdNxR` (N steps, R restarts), with `-dlr` or `-margin` for another loss and `-eotN` for
    gradients averaged over N draws of a random network: pgd20, pgd50x5, pgd20-dlr, pgd20-eot20."""

    name = "pgd"
    grammar = ("pgdN", "pgdNxR", "pgdN-dlr", "pgdN-margin", "pgdN-eotN")
    tiers = (TierEntry("pgd20", order=10, tiers=("quick", "standard", "full")),)

    def parse(self, text: str, *, eps: float, norm: str, step_size: float | None) -> Attack | None:
        match = re.fullmatch(r"pgd(\d+)(?:x(\d+))?(?:-(ce|dlr|margin))?(?:-eot(\d+))?", text)
        if match is None or int(match[1]) < 1:
            return None
        return Attack(
            self.name,
            eps,
            int(match[1]),
            step_size,
            norm,
            restarts=int(match[2] or 1),
            loss=match[3] or "ce",
            eot=int(match[4] or 1),
        )

    def text(self, attack: Attack) -> str:
        restarts = f"x{attack.restarts}" if attack.restarts > 1 else ""
        loss = f"-{attack.loss}" if attack.loss != "ce" else ""
        eot = f"-eot{attack.eot}" if attack.eot > 1 else ""
        return f"pgd{attack.steps}{restarts}{loss}{eot}"
