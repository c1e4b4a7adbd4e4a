"""The unit of every measurement: which examples a model gets right, clean and attacked.

The unit is a fixed chunk of images with a seed of its own, so that a resumed, sharded or reordered
evaluation gives identical bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack, Candidates, Objective, objective_of
from rheostat.data import Dataset, to_pixels
from rheostat.points import Point
from rheostat.seeding import stream
from rheostat.tunable import Tunable

CHUNK = 100
FRESH = 10
"""On how many fresh draws an attack on a randomised point is judged."""


@dataclass(frozen=True)
class Aim:
    """What is attacked: (labels of a chunk, loss name, form, stream of the noise) → objective.

    `randomised` says that a pass draws noise: then every image is attacked, right or wrong, and
    judged on fresh draws. `route`, for a point with a live exit policy: images → (n,) exits taken.
    """

    objective: Callable[[Tensor, str, str, torch.Generator], Objective | Candidates]
    randomised: bool = False
    route: Callable[[Tensor], Tensor] | None = None

    def judge(self, labels: Tensor, noise: torch.Generator) -> Objective:
        """The decision that is scored."""
        found = self.objective(labels, "margin", "direct", noise)
        assert isinstance(found, Objective)
        return found


@dataclass(frozen=True)
class Outcome:
    """Bits of one attack: right on the clean image, and still right on the attacked one, (N,) each."""

    clean: Tensor
    robust: Tensor
    queries: int


def aim_at(model: nn.Module, point: Point | None = None) -> Aim:
    """What an attack on a model at a point maximises; for a plain module the point is None."""
    if not isinstance(model, Tunable):
        return Aim(lambda labels, loss, form, noise: objective_of(model, labels, loss=loss))

    def route(images: Tensor) -> Tensor:
        with torch.no_grad():
            found = model.read(images, model.resolve(point, images)).taken
        assert found is not None
        return found

    return Aim(
        lambda labels, loss, form, noise: model.objective(
            labels, point, loss=loss, form=form, generator=noise
        ),
        model.method.randomised(model.checked(point)),
        route if model.method.live(model.checked(point)) else None,
    )


def chunks(dataset: Dataset) -> list[slice]:
    """The fixed chunks of a data set."""
    return [slice(i, min(i + CHUNK, len(dataset))) for i in range(0, len(dataset), CHUNK)]


def in_bounds(adversarial: Tensor, images: Tensor, attack: Attack) -> Tensor:
    """(B,) whether each image lies in the ball and in the box, with room for rounding only."""
    delta = (adversarial - images).flatten(1)
    size = delta.abs().amax(1) if attack.norm == "linf" else delta.norm(dim=1)
    boxed = (adversarial.flatten(1).amin(1) >= 0) & (adversarial.flatten(1).amax(1) <= 1)
    return boxed & (size <= attack.eps * (1 + 1e-5) + 1e-6)


@dataclass(frozen=True)
class Chunk:
    """What an attack did to a chunk: bits (n,), images, forward passes of an image.

    `draws` (2, FRESH), for a randomised point alone: how many images were right, clean and attacked,
    on each fresh draw. `exits` (2, n), where exits are live: the exit each image takes, clean and
    attacked.
    """

    clean: Tensor
    robust: Tensor
    adversarial: Tensor
    queries: int
    draws: Tensor | None = None
    exits: Tensor | None = None


def attack_chunk(
    aim: Aim, images: Tensor, labels: Tensor, attack: Attack, seed: tuple[object, ...]
) -> Chunk:
    """One attack on one chunk.

    Only images that the model gets right are attacked. Success is judged here, on the images that
    came back: outside ball or box raises, and a prediction is taken anew.
    """
    judge = aim.judge(labels, stream(*seed, "judge"))
    with torch.no_grad():
        _, wrong = judge.judge(images)
    clean = ~wrong
    robust, adversarial = clean.clone(), images.clone()
    attacked = torch.ones_like(clean) if aim.randomised else clean
    rows = attacked.nonzero()[:, 0]
    if not len(rows):
        return Chunk(
            clean, robust, adversarial, len(labels), exits=_routes(aim, images, adversarial)
        )
    objective = aim.objective(labels, attack.loss, attack.form, stream(*seed, "noise"))
    passed: list[int] = []
    moved = attack(objective.only(rows).watched(passed.append), images[rows], stream(*seed))
    inside = in_bounds(moved, images[rows], attack)
    if not bool(inside.all()):
        raise ValueError(f"attack {attack.name} left the eps-ball or the box")
    with torch.no_grad():
        _, fallen = judge.only(rows).judge(moved)
    robust[rows] &= ~fallen
    adversarial[rows] = moved
    queries = len(labels) + len(rows) + sum(passed)
    exits = _routes(aim, images, adversarial)
    if not aim.randomised:
        return Chunk(clean, robust, adversarial, queries, exits=exits)
    draws = torch.zeros(2, FRESH)
    with torch.no_grad():
        for place in range(FRESH):
            for kind, shown in enumerate((images, adversarial)):
                draws[kind, place] = float((~judge.judge(shown)[1]).sum())
    return Chunk(clean, robust, adversarial, queries + 2 * FRESH * len(labels), draws, exits)


def _routes(aim: Aim, images: Tensor, adversarial: Tensor) -> Tensor | None:
    if aim.route is None:
        return None
    return torch.stack([aim.route(images), aim.route(adversarial)])


def outcome(
    model: nn.Module, point: Point | None, dataset: Dataset, attack: Attack, *, seed: int = 0
) -> Outcome:
    """Clean and robust bits of a whole data set (on the model's device)."""
    aim = aim_at(model, point)
    label = point.label() if point is not None else ""
    clean, robust, queries = [], [], 0
    for i, part in enumerate(chunks(dataset)):
        found = attack_chunk(
            aim,
            to_pixels(dataset.images[part]),
            dataset.labels[part],
            attack,
            (seed, label, attack.name, i),
        )
        clean.append(found.clean)
        robust.append(found.robust)
        queries += found.queries
    return Outcome(torch.cat(clean).cpu(), torch.cat(robust).cpu(), queries)
