"""The unit of every measurement: which examples a model gets right, clean and attacked.

The unit is a fixed chunk of images with a seed of its own, so that a resumed, sharded or reordered
evaluation gives identical bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack, Candidates, Objective, objective_of
from rheostat.attacks.grid import on_grid
from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.lowering import lowered
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
    `fooled` (2, m) bool: by the returned image, and by the same image rounded to 8 bits; either counts.
    `adversarial` holds the returned image, or the rounded one where that alone fooled the model.
    """

    clean: Tensor
    robust: Tensor
    adversarial: Tensor
    queries: int
    outside: Tensor
    unverified: Tensor
    fooled: Tensor
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
    rounded: bool = True,
    low: bool = False,
) -> Chunk:
    """One attack on one batch; with several seeds, on as many equal parts, each with streams of its own.

    `rows` are those still to attack, known to be right (default: judged here, and those that the
    model gets right). A row's random start does not depend on which others stand. Success is judged
    here, on the images that came back, on the same rounded to 8 bits inside the ball (unless `rounded` is False),
    and once more in a batch of other rows. `every` attacks all rows, right or wrong, as an attack on cost does;
    the exit that counts is then the later one of both images. `low`: as `lowered` has it, but for an attack on cost.
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
    fooled = torch.stack([outside, outside])
    exits = None
    if victim.route is not None:
        exits = torch.stack([victim.route(images), torch.full_like(labels, -1)])
        exits[1, routed] = exits[0, routed]
    if not len(rows):
        return Chunk(clean, robust, adversarial, queries, outside, unverified, fooled, exits=exits)
    objective = victim.objective(labels, attack.loss, attack.form, stream(*seeds[0], "noise"))
    passed: list[int] = []
    starts = [stream(*s) for s in seeds] if len(seeds) > 1 else stream(*seeds[0])
    # Rounded images have noise of their own, so that those returned are judged on the draws that they always were.
    judges = [judge, victim.judge(labels, stream(*seeds[0], "grid"))] if rounded else [judge]

    def on_file(moved: Tensor) -> Tensor:
        return on_grid(moved, images[rows], attack.eps, attack.norm) if rounded else moved

    watched = objective.only(rows).watched(passed.append)
    if low and attack.lowers and not every:
        looked = [j.only(rows).watched(passed.append) for j in judges]
        moved = lowered(
            attack,
            watched,
            images[rows],
            starts,
            share=(rows, len(labels)),
            fooled=lambda made: fooled_by(looked, made, on_file(made))[0].any(0),
        )
    else:
        moved = attack(watched, images[rows], starts, share=(rows, len(labels)))
    inside = in_bounds(moved, images[rows], attack)
    outside[rows] = ~inside
    moved = torch.where(inside[:, None, None, None], moved, images[rows])
    grid = on_file(moved)
    found, adversarial[rows] = fooled_by([j.only(rows) for j in judges], moved, grid)
    fooled[:, rows] = found & inside
    down = rows[fooled.any(0)[rows]].flip(0)
    if len(down) and not victim.randomised:
        with torch.no_grad():
            unverified[down] = ~judge.only(down).judge(adversarial[down])[1]
    robust &= ~fooled.any(0)
    queries += len(judges) * len(rows) + len(down) + sum(passed)
    if exits is not None and victim.route is not None:
        exits[1, rows] = victim.route(adversarial[rows])
        if every:
            exits[1, rows] = torch.maximum(victim.route(moved), victim.route(grid))
    if not victim.randomised:
        return Chunk(clean, robust, adversarial, queries, outside, unverified, fooled, exits=exits)
    draws = torch.zeros(2, FRESH)
    with torch.no_grad():
        for place in range(FRESH):
            for kind, shown in enumerate((images, adversarial)):
                draws[kind, place] = float((~judge.judge(shown)[1]).sum())
    queries += 2 * FRESH * len(labels)
    return Chunk(clean, robust, adversarial, queries, outside, unverified, fooled, draws, exits)


@torch.no_grad()
def fooled_by(judges: Sequence[Objective], moved: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Which labels images (n, C, H, W) fool, and the same images rounded to 8 bits: (2, n) bool; the images that count.

    With one judge, rounded images are not judged. The image that counts is the returned one, except where the
    rounded one alone fools.
    """
    first = judges[0].judge(moved)[1]
    second = judges[1].judge(grid)[1] if len(judges) > 1 else torch.zeros_like(first)
    shown = torch.where((second & ~first)[:, None, None, None], grid, moved)
    return torch.stack([first, second]), shown


@full_precision()
def outcome(model: nn.Module, point: Point | None, dataset: Dataset, attack: Attack, *, seed: int = 0) -> Outcome:
    """Clean and robust bits of a whole data set (on the model's device), of images as the attack returns them.

    For selection and calibration, which compare a model with itself; `evaluate` also judges rounded images.
    """
    victim = victim_at(model, point)
    label = point.label() if point is not None else ""
    clean, robust, queries = [], [], 0
    for i, part in enumerate(chunks(dataset)):
        images, labels = to_pixels(dataset.images[part]), dataset.labels[part]
        found = attack_chunk(victim, images, labels, attack, (seed, label, attack.name, i), rounded=False)
        clean.append(found.clean)
        robust.append(found.robust)
        queries += found.queries
    return Outcome(torch.cat(clean).cpu(), torch.cat(robust).cpu(), queries)
