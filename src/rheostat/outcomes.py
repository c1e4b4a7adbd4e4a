"""The unit of every measurement: which examples a model gets right, clean and attacked.

The unit is a fixed chunk of images with a seed of its own, so that a resumed, sharded or reordered
evaluation gives identical bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack, Objective, objective_of
from rheostat.data import Dataset, to_pixels
from rheostat.points import Point
from rheostat.seeding import stream
from rheostat.tunable import Tunable

CHUNK = 100

Aim = Callable[[Tensor, str], Objective]
"""(labels of a chunk, loss name) → what is attacked."""


@dataclass(frozen=True)
class Outcome:
    """Bits of one attack: right on the clean image, and still right on the attacked one, (N,) each."""

    clean: Tensor
    robust: Tensor
    queries: int


def aim_at(model: nn.Module, point: Point | None = None) -> Aim:
    """What an attack on a model at a point maximises; for a plain module the point is None."""
    if isinstance(model, Tunable):
        return lambda labels, loss: model.objective(labels, point, loss=loss)
    return lambda labels, loss: objective_of(model, labels, loss=loss)


def chunks(dataset: Dataset) -> list[slice]:
    """The fixed chunks of a data set."""
    return [slice(i, min(i + CHUNK, len(dataset))) for i in range(0, len(dataset), CHUNK)]


def in_bounds(adversarial: Tensor, images: Tensor, attack: Attack) -> Tensor:
    """(B,) whether each image lies in the ball and in the box, with room for rounding only."""
    delta = (adversarial - images).flatten(1)
    size = delta.abs().amax(1) if attack.norm == "linf" else delta.norm(dim=1)
    boxed = (adversarial.flatten(1).amin(1) >= 0) & (adversarial.flatten(1).amax(1) <= 1)
    return boxed & (size <= attack.eps * (1 + 1e-5) + 1e-6)


def attack_chunk(
    aim: Aim, images: Tensor, labels: Tensor, attack: Attack, seed: tuple[object, ...]
) -> tuple[Tensor, Tensor, Tensor, int]:
    """(clean bits, robust bits, adversarial images, forward passes of an image) of one chunk.

    Only images that the model gets right are attacked. Success is judged here, on the images that
    came back: outside ball or box raises, and a prediction is taken anew.
    """
    judge = aim(labels, "margin")
    with torch.no_grad():
        _, wrong = judge.judge(images)
    clean = ~wrong
    robust, adversarial = clean.clone(), images.clone()
    rows = clean.nonzero()[:, 0]
    if not len(rows):
        return clean, robust, adversarial, len(labels)
    counted = _Counter(aim(labels, attack.loss).only(rows))
    moved = attack(counted.objective, images[rows], stream(*seed))
    inside = in_bounds(moved, images[rows], attack)
    if not bool(inside.all()):
        raise ValueError(f"attack {attack.name} left the eps-ball or the box")
    with torch.no_grad():
        _, fallen = judge.only(rows).judge(moved)
    robust[rows] = ~fallen
    adversarial[rows] = moved
    return clean, robust, adversarial, len(labels) + len(rows) + counted.images


class _Counter:
    """An objective that counts the images passed through it."""

    def __init__(self, objective: Objective) -> None:
        self.images = 0
        inner = objective.forward

        def forward(images: Tensor, rows: Tensor | None) -> Tensor:
            self.images += len(images)
            return inner(images, rows)

        self.objective = Objective(forward, objective.labels, objective.loss, objective.rows)


def outcome(
    model: nn.Module, point: Point | None, dataset: Dataset, attack: Attack, *, seed: int = 0
) -> Outcome:
    """Clean and robust bits of a whole data set (on the model's device)."""
    aim = aim_at(model, point)
    label = point.label() if point is not None else ""
    clean, robust, queries = [], [], 0
    for i, part in enumerate(chunks(dataset)):
        bits = attack_chunk(
            aim,
            to_pixels(dataset.images[part]),
            dataset.labels[part],
            attack,
            (seed, label, attack.name, i),
        )
        clean.append(bits[0])
        robust.append(bits[1])
        queries += bits[3]
    return Outcome(torch.cat(clean).cpu(), torch.cat(robust).cpu(), queries)
