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
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.precision import full_precision
from rheostat.runtime.seeding import stream

CHUNK = 100
FRESH = 10
"""On how many fresh draws an attack on a randomised point is judged."""


@dataclass(frozen=True)
class Victim:
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


def victim_at(model: nn.Module, point: Point | None = None) -> Victim:
    """What an attack on a model at a point maximises; for a plain module the point is None."""
    if not isinstance(model, Tunable):
        return Victim(lambda labels, loss, form, noise: objective_of(model, labels, loss=loss))

    def route(images: Tensor) -> Tensor:
        with torch.no_grad():
            found = model.read(images, model.resolve(point, images)).taken
        assert found is not None
        return found

    return Victim(
        lambda labels, loss, form, noise: model.objective(labels, point, loss=loss, form=form, generator=noise),
        model.method.randomised(model.complete(point)),
        route if model.method.live(model.complete(point)) else None,
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
    """What an attack did to a batch: bits (m,), images, forward passes of an image.

    `draws` (2, FRESH), for a randomised point alone: how many images were right, clean and
    attacked, on each fresh draw. `exits` (2, m), where exits are live: the exit each image takes,
    clean and attacked (-1: not attacked). `outside` and `unverified`, (m,) bool: returned images that
    lie outside ball or box (and so do not count), and successes that a second look did not confirm.
    """

    clean: Tensor
    robust: Tensor
    adversarial: Tensor
    queries: int
    outside: Tensor
    unverified: Tensor
    draws: Tensor | None = None
    exits: Tensor | None = None


def attack_chunk(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *seeds: tuple[object, ...],
    rows: Tensor | None = None,
    every: bool = False,
) -> Chunk:
    """One attack on one batch; with several seeds, on as many equal parts, each with streams of its own.

    `rows` are those still to attack, known to be right (default: judged here, and those that the
    model gets right). A row's random start does not depend on which others stand. Success is judged
    here, on the images that came back, and once more in a batch of other rows. `every` attacks all rows, right
    or wrong, as an attack on cost does.
    """
    judge = victim.judge(labels, stream(*seeds[0], "judge"))
    clean, queries = torch.zeros_like(labels, dtype=torch.bool), 0
    routed = torch.arange(len(labels), device=labels.device) if rows is None else rows
    if rows is None:
        with torch.no_grad():
            clean = ~judge.judge(images)[1]
        queries = len(labels)
        attacked = torch.ones_like(clean) if victim.randomised or every else clean
        rows = attacked.nonzero()[:, 0]
    else:
        clean[rows] = True
    robust, adversarial = clean.clone(), images.clone()
    outside, unverified = torch.zeros_like(clean), torch.zeros_like(clean)
    if not len(rows):
        return Chunk(
            clean, robust, adversarial, queries, outside, unverified, exits=_routes(victim, images, adversarial, routed)
        )
    objective = victim.objective(labels, attack.loss, attack.form, stream(*seeds[0], "noise"))
    passed: list[int] = []
    starts = [stream(*s) for s in seeds] if len(seeds) > 1 else stream(*seeds[0])
    moved = attack(objective.only(rows).watched(passed.append), images[rows], starts, share=(rows, len(labels)))
    outside[rows] = ~in_bounds(moved, images[rows], attack)
    with torch.no_grad():
        _, fallen = judge.only(rows).judge(moved)
        fallen &= ~outside[rows]
        down = fallen.nonzero()[:, 0].flip(0)
        if len(down) and not victim.randomised:
            _, again = judge.only(rows[down]).judge(moved[down])
            unverified[rows[down]] = ~again
    robust[rows] &= ~fallen
    adversarial[rows] = torch.where(outside[rows][:, None, None, None], images[rows], moved)
    queries += len(rows) + len(down) + sum(passed)
    exits = _routes(victim, images, adversarial, routed)
    if not victim.randomised:
        return Chunk(clean, robust, adversarial, queries, outside, unverified, exits=exits)
    draws = torch.zeros(2, FRESH)
    with torch.no_grad():
        for place in range(FRESH):
            for kind, shown in enumerate((images, adversarial)):
                draws[kind, place] = float((~judge.judge(shown)[1]).sum())
    queries += 2 * FRESH * len(labels)
    return Chunk(clean, robust, adversarial, queries, outside, unverified, draws, exits)


def _routes(victim: Victim, images: Tensor, adversarial: Tensor, rows: Tensor) -> Tensor | None:
    if victim.route is None:
        return None
    exits = torch.stack([victim.route(images), rows.new_full((len(images),), -1)])
    if len(rows):
        exits[1, rows] = victim.route(adversarial[rows])
    return exits


@full_precision()
def outcome(model: nn.Module, point: Point | None, dataset: Dataset, attack: Attack, *, seed: int = 0) -> Outcome:
    """Clean and robust bits of a whole data set (on the model's device)."""
    victim = victim_at(model, point)
    label = point.label() if point is not None else ""
    clean, robust, queries = [], [], 0
    for i, part in enumerate(chunks(dataset)):
        found = attack_chunk(
            victim, to_pixels(dataset.images[part]), dataset.labels[part], attack, (seed, label, attack.name, i)
        )
        clean.append(found.clean)
        robust.append(found.robust)
        queries += found.queries
    return Outcome(torch.cat(clean).cpu(), torch.cat(robust).cpu(), queries)
