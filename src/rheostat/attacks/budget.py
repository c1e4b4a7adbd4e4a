"""The ball that an attack may move in: norms, projection, random starts, step sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rheostat.runtime.choices import nearest

NORMS = ("linf", "l2")
LARGEST = {"linf": 1.0, "l2": 1e3}
"""The largest radius that means something for pixels in [0, 1]: beyond it every image is in the ball."""
Streams = torch.Generator | Sequence[torch.Generator] | None
"""What random starts are drawn from: one stream, or one for each equal part of a batch."""


def per_row(x: Tensor) -> Tensor:
    """The L2 norm of each row, (B, 1, 1, 1), never 0."""
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, *[1] * (x.ndim - 1))


def project(delta: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball of radius eps, row by row."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / per_row(delta)).clamp_max(1.0)


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
        delta = direction / per_row(direction) * radius * eps
    delta = delta if share is None else delta[share[0].to(delta.device)]
    return delta.to(images.device, images.dtype)


def check_budget(norm: str, eps: float, steps: int) -> None:
    """Raise ValueError for a norm that is not known, an eps that no image needs (NaN is one), or no steps.

    Pixels lie in [0, 1], so an L∞ ball of more than 1 holds every image: such an eps is one of 0 to 255.
    """
    if norm not in NORMS:
        raise ValueError(f"no norm {norm!r}; {nearest(norm, NORMS)}")
    if norm == "linf" and 1 < eps <= 255:
        raise ValueError(f"eps is at most 1, in units of [0, 1], given {eps:g}; did you mean {eps:g}/255?")
    if eps < 0:
        raise ValueError(f"eps must not be negative, given {eps:g}")
    if not eps <= LARGEST[norm]:  # nor is NaN
        raise ValueError(f"an eps of {norm} is at most {LARGEST[norm]:g}, for pixels in [0, 1]; given {eps:g}")
    if steps < 1:
        raise ValueError(f"an attack takes at least 1 step, given {steps}")


def training_step_size(eps: float, steps: int) -> float:
    """The papers' PGD step in training: min(1.25·eps, eps + 4/255) / steps (METHODS, threat model)."""
    return min(1.25 * eps, eps + 4 / 255) / steps
