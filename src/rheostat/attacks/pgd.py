"""Projected gradient attacks: PGD and MI-FGSM (L∞, L2), FGSM, and the training-only N-FGSM.

Sources: PGD Madry et al. 2018; FGSM Goodfellow et al. 2015; MI-FGSM Dong et al. 2018; N-FGSM de
Jorge et al. 2022. Each is a function (objective, images) → images. It sees nothing of a model; the
caller judges success on the returned images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rheostat.attacks.objective import Objective, gradient
from rheostat.runtime.choices import nearest

NORMS = ("linf", "l2")
Streams = torch.Generator | Sequence[torch.Generator] | None
"""What random starts are drawn from: one stream, or one for each equal part of a batch."""


def _per_row(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, *[1] * (x.ndim - 1))


def project(delta: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball of radius eps, row by row."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / _per_row(delta)).clamp_max(1.0)


def _ascent(grad: Tensor, norm: str) -> Tensor:
    return grad.sign() if norm == "linf" else grad / _per_row(grad)


def random_start(
    images: Tensor, eps: float, norm: str, generator: Streams, share: tuple[Tensor, int] | None = None
) -> Tensor:
    """δ uniform in the ball. Drawn on the CPU, so that every device starts at the same place.

    `share` (rows, n) says which rows of a group of n the images are: the draw is the group's, so
    that ranks that share a batch start where one rank would, and a row starts at the same place
    whichever others still stand. Several generators draw for equal parts of the group, in turn.
    """
    count = len(images) if share is None else share[1]
    if isinstance(generator, Sequence):
        part = images.new_empty(count // len(generator), *images.shape[1:])
        parts = [random_start(part, eps, norm, g) for g in generator]
        delta = torch.cat(parts)
        return delta if share is None else delta[share[0].to(delta.device)]
    shape = (count, *images.shape[1:])
    if norm == "linf":
        delta = torch.rand(shape, generator=generator) * (2 * eps) - eps
    else:
        direction = torch.randn(shape, generator=generator)
        dimension = max(images[:1].numel(), 1)
        radius = torch.rand((count, 1, 1, 1), generator=generator) ** (1 / dimension)
        delta = direction / _per_row(direction) * radius * eps
    delta = delta if share is None else delta[share[0].to(delta.device)]
    return delta.to(images.device, images.dtype)


def check_budget(norm: str, eps: float, steps: int) -> None:
    """Raise ValueError for a norm that is not known, a negative eps or no steps."""
    if norm not in NORMS:
        raise ValueError(f"no norm {norm!r}; {nearest(norm, NORMS)}")
    if eps < 0:
        raise ValueError(f"eps must not be negative, given {eps:g}")
    if steps < 1:
        raise ValueError(f"an attack takes at least 1 step, given {steps}")


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
    (uniform in the ball, anew at each restart; `share` as in `random_start`), False (the image) or a
    (B, C, H, W) δ. With `momentum` the steps follow the
    accumulated L1-normalised gradient (MI-FGSM). With `drop`, a row stops at the first image that
    falls and costs nothing more; otherwise the last iterate is returned, over `restarts` the one of
    the highest loss.
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
            # Drawn for the whole batch: a row's start does not depend on which rows still stand.
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
    scaled = grad / grad.abs().flatten(1).mean(1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
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
    """The same climb; rows leave the batch as soon as an iterate falls. (images, fallen)."""
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


def fgsm(objective: Objective, images: Tensor, *, eps: float, norm: str = "linf") -> Tensor:
    """One step of size eps from the image itself."""
    return pgd(objective, images, eps=eps, steps=1, step_size=eps, norm=norm, start=False)


def n_fgsm(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    generator: Streams = None,
    share: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Noise uniform in 2·eps, then one sign step of eps; δ is not clipped to the ball, only to the box.

    For training alone: the images may lie up to 3·eps away.
    """
    check_budget("linf", eps, 1)
    noise = random_start(images, 2 * eps, "linf", generator, share)
    noisy = (images.detach() + noise).clamp(0, 1)
    grad, _, _ = gradient(objective, noisy)
    return (noisy + eps * grad.sign()).clamp(0, 1)


def training_step_size(eps: float, steps: int) -> float:
    """The papers' PGD step in training: min(1.25·eps, eps + 4/255) / steps (METHODS, threat model)."""
    return min(1.25 * eps, eps + 4 / 255) / steps
