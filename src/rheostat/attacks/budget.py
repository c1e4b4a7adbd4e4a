"""The threat model's ball: norms, projection, random starts, step sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rheostat.runtime.choices import nearest

NORMS = ("linf", "l2")
LARGEST = {"linf": 1.0, "l2": 1e3}
"""The largest radius allowed for pixels in [0, 1]: a larger ball contains every image."""
Streams = torch.Generator | Sequence[torch.Generator] | None
"""The source of random starts: one stream, or one for each equal part of a batch."""
LEAST = 1e-12
"""The least size of a row, so that a row of zeros can be divided by it."""


def per_row(x: Tensor) -> Tensor:
    """The L2 norm of each row, (B, 1, 1, 1), at least `LEAST`."""
    return _beside(x.flatten(1).norm(dim=1).clamp_min(LEAST), x)


def mean_size(x: Tensor) -> Tensor:
    """The mean absolute value of each row, (B, 1, 1, 1), at least `LEAST`."""
    return _beside(x.abs().flatten(1).mean(1).clamp_min(LEAST), x)


def unit(grad: Tensor, size: Callable[[Tensor], Tensor]) -> Tensor:
    """Each row of a gradient divided by its size, which is `per_row` or `mean_size`.

    The gradient of CE is smaller than `LEAST` where the model is very confident, and its squares vanish in fp32. Such
    a row is first divided by its largest entry, because otherwise the step, which is meant to have a fixed length,
    would vanish with it. A row of zeros stays one.
    """
    largest = _beside(grad.abs().flatten(1).amax(1), grad)
    tiny = (size(grad) <= LEAST) & (largest > 0)
    lifted = torch.where(tiny, grad / largest, grad)
    return lifted / size(lifted)


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """(B,) values of the rows of `x`, shaped so that they broadcast with it."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def project(delta: Tensor, eps: float, norm: str) -> Tensor:
    """Project each row of `delta` (B, C, H, W) onto the ball of radius eps."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / per_row(delta)).clamp_max(1.0)


def random_start(
    images: Tensor, eps: float, norm: str, generator: Streams, share: tuple[Tensor, int] | None = None
) -> Tensor:
    """δ (B, C, H, W), uniform in the ball. It is drawn on the CPU, so that every device gets the same start.

    `share` (rows, n): the images are these rows of a group of n. The draw covers the whole group.
    Ranks that share a batch therefore start where a single rank would, and the start of a row does
    not depend on which other rows are still active. Several generators draw for equal parts of the
    group, in turn.
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
        delta = direction / per_row(direction) * radius * eps
    delta = delta if share is None else delta[share[0].to(delta.device)]
    return delta.to(images.device, images.dtype)


def check_budget(norm: str, eps: float, steps: int) -> None:
    """Raise ValueError for an unknown norm, an eps out of range or NaN, or fewer than 1 step.

    Pixels lie in [0, 1], so an L∞ eps above 1 was probably given in units of [0, 255].
    """
    if norm not in NORMS:
        raise ValueError(f"no norm {norm!r}; {nearest(norm, NORMS)}")
    if norm == "linf" and 1 < eps <= 255:
        raise ValueError(f"eps must be at most 1, in units of [0, 1], given {eps:g}; did you mean {eps:g}/255?")
    if eps < 0:
        raise ValueError(f"eps must not be negative, given {eps:g}")
    if not eps <= LARGEST[norm]:  # nor is NaN
        raise ValueError(f"eps of {norm} must be at most {LARGEST[norm]:g}, for pixels in [0, 1], given {eps:g}")
    if steps < 1:
        raise ValueError(f"an attack needs at least 1 step, given {steps}")


def training_step_size(eps: float, steps: int) -> float:
    """The papers' PGD step size in training: min(1.25·eps, eps + 4/255) / steps (METHODS, threat model)."""
    return min(1.25 * eps, eps + 4 / 255) / steps
