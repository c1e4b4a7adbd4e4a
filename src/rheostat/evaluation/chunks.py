"""The unit of an evaluation: one fixed chunk of images, attacked at every point, as a record of tensors.

Points that differ only in dials that vary by row share one batch. Every unit has its own seeds and is
independent of the others. Units therefore run in any order, on any rank, and a killed evaluation loses
at most one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack, Objective
from rheostat.attacks.grid import on_grid
from rheostat.attacks.multi_exit import COST_FORMS
from rheostat.attacks.objective import cross_entropy
from rheostat.evaluation.attacked import FRESH, Chunk, Victim, attack_chunk, fooled_by, victim_at
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.seeding import stream

PACK_PIXELS = 2**19
"""The most input values in a batch over several points; larger batches are no faster on a CPU."""
WARM_FROM = 2
"""The number of previous points whose adversarial images a warm start tries."""
Record = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """The work for every chunk: points × attacks, and the attacker's knowledge of the dial.

    `warm`: each point first tries the adversarial images of the points before it, unchanged; they count as a
    separate attack. `transfer`: the images of every point are also scored at every other point, with images of attacks
    that do not stop at a success, and the first attack that treats rows independently maximises the mean loss over all
    points. `low`: attacks that can be finished in fp32 run in bf16 first, except those that `transfer` adds. Raises
    ValueError for `warm` with noise, and for `transfer` without an attack that treats rows independently.
    """

    model: nn.Module
    points: tuple[Point | None, ...]
    attacks: tuple[Attack, ...]
    seed: int = 0
    warm: bool = False
    transfer: bool = False
    low: bool = False

    def __post_init__(self) -> None:
        if self.warm and any(victim_at(self.model, p).randomised for p in self.points):
            raise ValueError("warm starts need points that draw no noise; omit --warm")
        if self.transfer and not any(a.rowwise for a in self.attacks):
            raise ValueError(
                "--transfer attacks the mean loss over the points, which needs an attack such as pgd20 or fgsm, given "
                f"{', '.join(a.name for a in self.attacks)}; add --attack pgd20 or omit --transfer"
            )

    def packs(self, images: Tensor) -> Iterator[list[int]]:
        """Yield the indices of points that share a batch."""
        most = 1 if self.warm else max(1, PACK_PIXELS // max(images.numel(), 1))
        pack: list[int] = []
        for place, point in enumerate(self.points):
            if pack and not (len(pack) < most and self._together(self.points[pack[0]], point)):
                yield pack
                pack = []
            pack.append(place)
        if pack:
            yield pack

    def _together(self, a: Point | None, b: Point | None) -> bool:
        model = self.model
        if not isinstance(model, Tunable) or a is None or b is None:
            return False
        if not all(x.rowwise and x.form == "direct" for x in self.attacks):
            return False
        victims = [victim_at(model, p) for p in (a, b)]
        if any(x.randomised or x.route is not None for x in victims):
            return False
        first, second = model.complete(a), model.complete(b)
        return all(first[n] == second[n] for n, d in model.dials.items() if d.structural)


def measured(task: Task, images: Tensor, labels: Tensor, number: int) -> Record:
    """The record of one chunk; images (n, C, H, W) in [0, 1], labels (n,).

    For P points and A attacks it holds: the bits `clean` (P, n) and `standing` (P, A, n), correct before and after
    each attack; `alone` (P, A, 2, n), the same if only the returned, or only the rounded images counted;
    `queries`, `seconds`, `outside` and `unverified` (P, A); `draws` (P, A, 2, FRESH) and `exits` (P, A, 2, n), -1
    where they do not apply; `example` (P, C, H, W), the successful image with the largest margin, with
    `example_row` (P,) (-1: none) and `example_margin` (P,). With `transfer`: `crossed` (P', P, n), correct at P on
    every image made at P', and `unknown` (P, n).
    """
    count, size = len(task.points), len(images)
    kinds = len(task.attacks) + task.warm
    out: Record = {
        "clean": torch.zeros(count, size, dtype=torch.bool),
        "standing": torch.zeros(count, kinds, size, dtype=torch.bool),
        "alone": torch.zeros(count, kinds, 2, size, dtype=torch.bool),
        "draws": torch.full((count, kinds, 2, FRESH), -1.0),
        "exits": torch.full((count, kinds, 2, size), -1),
        **{k: torch.zeros(count, kinds, dtype=torch.int64) for k in ("queries", "outside", "unverified")},
        "seconds": torch.zeros(count, kinds, dtype=torch.float64),
    }
    moved: list[Tensor] = []
    for pack in task.packs(images):
        moved += _pack(task, pack, images, labels, number, out, moved)
    margins = torch.full((count,), float("-inf"))
    places = torch.full((count,), -1)
    shown = images.new_zeros(count, *images.shape[1:]).cpu()
    for p, point in enumerate(task.points):
        judge = victim_at(task.model, point).judge(labels, stream(task.seed, number, "example"))
        with torch.no_grad():
            margin, fallen = judge.judge(moved[p])
        fallen &= (out["clean"][p] & ~out["standing"][p, -1]).to(fallen.device)
        if bool(fallen.any()):
            best = margin.masked_fill(~fallen, float("-inf")).argmax()
            places[p], margins[p], shown[p] = best.cpu(), margin[best].cpu(), moved[p][best].cpu()
    out |= {"example": shown, "example_row": places, "example_margin": margins}
    if task.transfer:
        out |= _transferred(task, moved, images, labels, number)
    return out


def _pack(
    task: Task, pack: list[int], images: Tensor, labels: Tensor, number: int, out: Record, before: list[Tensor]
) -> list[Tensor]:
    """Attack the points of a pack in one batch; returns the images of each point.

    Per row: the image that fooled the model at its point, or else the image of the first attack that changed it.
    """
    count, n = len(pack), len(images)
    point = _joined([task.points[p] for p in pack], n)
    victim = victim_at(task.model, point)
    labels_all, images_all = labels.repeat(count), images.repeat(count, 1, 1, 1)
    moved, rows = images_all.clone(), None
    fooled = torch.zeros(2, len(labels_all), dtype=torch.bool, device=labels.device)
    names = [q.label() if (q := task.points[p]) is not None else "" for p in pack]
    if task.warm:
        rows = _warm(victim, before[-WARM_FROM:], images, labels, pack[0], number, task, out, moved, fooled)
    for i, attack in enumerate(task.attacks, int(task.warm)):
        started = time.perf_counter()
        seeds = [(task.seed, name, attack.name, number) for name in names]
        # An attack on cost runs on every image, not only on survivors of the earlier attacks.
        every = attack.form in COST_FORMS
        found = attack_chunk(
            victim, images_all, labels_all, attack, *seeds, rows=None if every else rows, every=every, low=task.low
        )
        took = time.perf_counter() - started
        if rows is None:
            out["clean"][pack] = found.clean.reshape(count, n).cpu()
        before_it = found.clean if rows is None else torch.zeros_like(found.robust).index_fill(0, rows, True)
        found = replace(found, robust=found.robust & before_it)
        # An image that no attack has moved takes what this one made of it; a moved one is replaced only by a success,
        # because some attacks return the clean image where they fail.
        unmoved = (moved == images_all).flatten(1).all(1)
        taken = before_it & (unmoved | ~found.robust)
        moved[taken] = found.adversarial[taken]
        rows = found.robust.nonzero()[:, 0]
        fooled |= found.fooled
        _note(out, pack, i, found, took)
        alone = out["clean"][pack] & ~fooled.reshape(2, count, n).cpu()
        out["alone"][pack, i] = alone.transpose(0, 1)
    return list(moved.reshape(count, n, *images.shape[1:]))


def _note(out: Record, pack: list[int], i: int, found: Chunk, took: float) -> None:
    count = len(pack)
    for key in ("outside", "unverified"):
        bits = getattr(found, key).reshape(count, -1)
        out[key][pack, i] = bits.sum(1).cpu()
    out["standing"][pack, i] = found.robust.reshape(count, -1).cpu()
    # The time and passes of a shared batch are divided equally.
    out["queries"][pack, i] = round(found.queries / count)
    out["seconds"][pack, i] = took / count
    if found.draws is not None:
        out["draws"][pack[0], i] = found.draws
    if found.exits is not None:
        out["exits"][pack[0], i] = found.exits.cpu()


def _warm(
    victim: Victim,
    lent: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    place: int,
    number: int,
    task: Task,
    out: Record,
    moved: Tensor,
    fooled: Tensor,
) -> Tensor:
    """Try the images of other points, and rounded those that fool; returns the rows that are still correct."""
    started = time.perf_counter()
    judge = victim.judge(labels, stream(task.seed, number, "warm"))
    with torch.no_grad():
        clean = ~judge.judge(images)[1]
    standing, queries = clean.clone(), len(images)
    for other in lent:
        rows = standing.nonzero()[:, 0]
        if not len(rows):
            break
        fooled[:, rows], _ = fooled_by([judge.only(rows)], other[rows], other[rows])
        down = rows[fooled[0, rows]]
        if len(down):
            fooled[:, down], _ = fooled_by([judge.only(down)] * 2, other[down], _rounded(task, other, images)[down])
        queries += len(rows) + 2 * len(down)
        moved[down], standing[down] = other[down], False
    out["clean"][place], out["standing"][place, 0] = clean.cpu(), standing.cpu()
    out["alone"][place, 0] = (clean & ~fooled).cpu()
    out["queries"][place, 0] = queries
    out["seconds"][place, 0] = time.perf_counter() - started
    if victim.route is not None:
        exits = torch.stack([victim.route(images), victim.route(moved)])
        out["exits"][place, 0] = exits.cpu()
    return standing.nonzero()[:, 0]


def _rounded(task: Task, moved: Tensor, images: Tensor) -> Tensor:
    """Images of other points, rounded to 8 bits within the ball of the first attack."""
    return on_grid(moved, images, task.attacks[0].eps, task.attacks[0].norm)


def _joined(points: list[Point | None], n: int) -> Point | None:
    """One point with per-row values, n rows for each of several points that differ only in dials that vary by row."""
    first = points[0]
    if len(points) == 1 or first is None:
        return first
    joined = {}
    for name, value in first.items():
        values = [p[name] for p in points if p is not None]
        same = all(v == value for v in values)
        joined[name] = value if same else torch.tensor(values).repeat_interleave(n)
    return Point(**joined)


def _transferred(task: Task, moved: list[Tensor], images: Tensor, labels: Tensor, number: int) -> Record:
    """Bits at every point of the images made at every point, and of images made for the mean loss over points.

    An image in `moved` is at the boundary of its own point, because attacks stop at a success, or clean if that point
    misclassifies it. So every attack that treats rows independently also runs on every image to its last step.
    """
    rowwise = [replace(a, drop=False) for a in task.attacks if a.rowwise and a.form not in COST_FORMS]
    first = next(a for a in task.attacks if a.rowwise)
    noise = stream(task.seed, number, "transfer")
    victims = [victim_at(task.model, p) for p in task.points]
    judges = [victim.judge(labels, noise) for victim in victims]
    attack = replace(first, label=f"{first.name} on the mean over points", drop=False)
    mean = over_points([victim.objective(labels, first.loss, "direct", noise) for victim in victims], labels)
    found = attack(mean, images, stream(task.seed, "mean over points", number))
    made = [[x] for x in moved]
    for of_point, victim, point in zip(made, victims, task.points, strict=True):
        for whole in rowwise:
            seed = (task.seed, point.label() if point is not None else "", whole.name, "to the last step", number)
            of_point.append(whole(victim.objective(labels, whole.loss, whole.form, noise), images, stream(*seed)))

    def stands(x: Tensor) -> list[Tensor]:
        grid = _rounded(task, x, images)
        return [~fooled_by([judge, judge], x, grid)[0].any(0).cpu() for judge in judges]

    with torch.no_grad():
        clean = [~judge.judge(images)[1].cpu() for judge in judges]
    right = torch.stack(clean)
    crossed = [torch.stack([torch.stack(stands(x)) for x in of_point]).all(0) for of_point in made]
    return {"crossed": torch.stack([right & bits for bits in crossed]), "unknown": right & torch.stack(stands(found))}


def over_points(objectives: Sequence[object], labels: Tensor) -> Objective:
    """The mean loss over several points, which an attacker who does not know the point maximises."""
    parts = [o for o in objectives if isinstance(o, Objective)]

    def forward(images: Tensor, rows: Tensor | None) -> Tensor:
        return torch.stack([o.forward(images, rows) for o in parts], 1)

    def mean(stack: Tensor, labels: Tensor) -> Tensor:
        losses = [o.loss(stack[:, k], labels) for k, o in enumerate(parts)]
        return torch.stack(losses).mean(0)

    return Objective(
        forward, labels, mean if parts else cross_entropy, decide=lambda stack: stack.mean(1).argmax(1), decisive=False
    )
