"""The unit of every measurement: which examples of a chunk a model classifies correctly, clean and attacked.

A chunk is a fixed range of images with its own seed, so that a resumed, sharded or reordered evaluation
gives identical bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
"""The number of fresh draws on which images of a randomised point are scored."""


@dataclass(frozen=True)
class Victim:
    """The model under attack. `objective` is (labels of a chunk, loss name, form, noise stream) → objective.

    `randomised` is set if a pass draws noise: then every image is attacked, even if it is misclassified, and
    scored on fresh draws. `route`, for a point with a live exit policy, is images → (n,) exits taken.
    """

    objective: Callable[[Tensor, str, str, torch.Generator], Objective | Candidates]
    randomised: bool = False
    route: Callable[[Tensor], Tensor] | None = None

    def judge(self, labels: Tensor, noise: torch.Generator) -> Objective:
        """The objective whose decision is scored."""
        found = self.objective(labels, "margin", "direct", noise)
        assert isinstance(found, Objective)
        return found


@dataclass(frozen=True)
class Outcome:
    """Bits of one attack, (N,) each: the clean image is classified correctly; the attacked one is too."""

    clean: Tensor
    robust: Tensor
    queries: int


def victim_at(model: nn.Module, point: Point | None = None) -> Victim:
    """The victim that a model at a point is; for a plain module the point is None."""
    if not isinstance(model, Tunable):

        def plain(labels: Tensor, loss: str, form: str, noise: torch.Generator) -> Objective:
            if form != "direct":
                raise ValueError(f"{type(model).__name__} has no forms of attack, given {form}")
            return objective_of(model, labels, loss=loss)

        return Victim(plain)

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
    """The fixed chunks of a data set, as slices of `CHUNK` images."""
    return [slice(i, min(i + CHUNK, len(dataset))) for i in range(0, len(dataset), CHUNK)]


def in_bounds(adversarial: Tensor, images: Tensor, attack: Attack) -> Tensor:
    """(B,) bool: whether each image lies in the ball and in [0, 1], up to rounding."""
    delta = (adversarial - images).flatten(1)
    size = delta.abs().amax(1) if attack.norm == "linf" else delta.norm(dim=1)
    boxed = (adversarial.flatten(1).amin(1) >= 0) & (adversarial.flatten(1).amax(1) <= 1)
    return boxed & (size <= attack.eps * (1 + 1e-5) + 1e-6)


@dataclass(frozen=True)
class Chunk:
    """The result of an attack on a batch of m images; `clean` and `robust` are bits (m,).

    `adversarial` (m, C, H, W) holds the returned images, or the rounded one if only that fooled the model.
    `queries` counts forward passes of one image. `fooled` (2, m) bool: whether the returned image, and the
    image rounded to 8 bits, fools the model; either counts. `outside` (m,) bool: the returned image lies
    outside the ball or [0, 1] and does not count. `unverified` (m,) bool: a second pass did not confirm the
    success. `draws` (2, FRESH), only for a randomised point: the number of correct images, clean and
    attacked, on each fresh draw. `exits` (2, m), only if exits are live: the exit that each image takes, clean
    and attacked (-1: not attacked).
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
    """Run one attack on one batch; with several seeds, the batch has as many equal parts, each with its own streams.

    `rows` are the rows to attack, which must be classified correctly; by default they are found here. The random
    start of a row does not depend on which other rows are attacked. Success is scored on the returned images and,
    unless `rounded` is False, on the same images rounded to 8 bits inside the ball and once more in a batch of other
    size and order. `every` attacks all rows, also misclassified ones, as an attack on cost needs; the later exit of the
    returned and the rounded image then counts. `low` runs the attack through `lowered`, thorough unless `rounded` is
    False; it has no effect with `every`.
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
    # Rounded images have their own noise stream, so that scoring them does not change the draws of returned images.
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
            thorough=rounded,
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
    if len(down) and rounded and not victim.randomised:
        with torch.no_grad():
            unverified[down] = ~judge.only(down).judge(adversarial[down])[1]
    robust &= ~fooled.any(0)
    queries += len(judges) * len(rows) + len(down) * rounded + sum(passed)
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
    """(fooled (2, n) bool, images (n, C, H, W)): whether `moved` and `grid` (8 bits) fool; the images that count.

    With one judge, `grid` is not scored. The image in `moved` counts unless only the one in `grid` fools.
    """
    first = judges[0].judge(moved)[1]
    second = judges[1].judge(grid)[1] if len(judges) > 1 else torch.zeros_like(first)
    shown = torch.where((second & ~first)[:, None, None, None], grid, moved)
    return torch.stack([first, second]), shown


@full_precision()
def outcome(
    model: nn.Module, point: Point | None, dataset: Dataset, attack: Attack, *, seed: int = 0, low: bool = False
) -> Outcome:
    """Clean and robust bits of a whole data set (on the model's device), scored on images as the attack returns them.

    `evaluate` also scores rounded images, and scores images that fool a second time. `low` runs the attack through
    `lowered`.
    """
    victim = victim_at(model, point)
    label = point.label() if point is not None else ""
    clean, robust, queries = [], [], 0
    for i, part in enumerate(chunks(dataset)):
        images, labels = to_pixels(dataset.images[part]), dataset.labels[part]
        found = attack_chunk(victim, images, labels, attack, (seed, label, attack.name, i), rounded=False, low=low)
        clean.append(found.clean)
        robust.append(found.robust)
        queries += found.queries
    return Outcome(torch.cat(clean).cpu(), torch.cat(robust).cpu(), queries)


def worst_outcome(
    model: nn.Module, point: Point | None, dataset: Dataset, attack: Attack, *, seed: int = 0, low: bool = False
) -> Outcome:
    """`outcome`; where an attack on the logits is misled (`Method.misleads`), the worst case over every form of attack.

    Selection and calibration use it, because they compare a model with itself. Each further form attacks only images
    that still stand; it is a form of `attack`, or of PGD-20 if that attack takes no forms.
    """
    found = outcome(model, point, dataset, attack, seed=seed, low=low)
    if not isinstance(model, Tunable) or not model.method.misleads(model.complete(point)):
        return found
    robust, queries = found.robust.clone(), found.queries
    formed = attack if attack.rowwise else Attack("pgd", attack.eps, norm=attack.norm)
    for form in ("direct", *model.method.forms(model.net)):
        rows = robust.nonzero()[:, 0]
        if form == attack.form or not len(rows):
            continue
        standing = dataset.only(rows.to(dataset.labels.device))
        again = outcome(model, point, standing, replace(formed, form=form, label=""), seed=seed, low=low)
        robust[rows] = again.robust
        queries += again.queries
    return Outcome(found.clean, robust, queries)
