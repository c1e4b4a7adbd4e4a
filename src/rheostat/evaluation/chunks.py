"""The unit of an evaluation: one fixed chunk of images, attacked at every point, in a record of tensors.

Points that differ only in dials that vary by row share one batch. Every unit has seeds of its own and
needs no other, so that units run in any order, on any rank, and a killed evaluation loses one at most.
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
"""Input values in a batch over several points, at most: beyond, a CPU gains nothing from larger ones."""
WARM_FROM = 2
"""How many of the points measured before lend their images to the next."""
Record = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """What is done to every chunk: points × attacks, and with what knowledge of the dial.

    `warm`: at each point the images found at points before it are tried first, as they are; they
    count as an attack of their own, before the others. `transfer`: every point's images are judged at
    every point, and one attack is made on the mean loss over all points. `low`: attacks that can be finished in
    fp32 are made in bf16 first; that on the mean loss, and images of other points, are not.
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
            raise ValueError("warm starts need points that draw no noise; leave --warm out")

    def packs(self, images: Tensor) -> Iterator[list[int]]:
        """Places of points that share a batch."""
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

    `clean` (P, n) and `standing` (P, A, n) bits, and `alone` (P, A, 2, n): who would stand if the returned images
    alone counted, and if those rounded to 8 bits alone did; `queries`, `seconds`, `outside`, `unverified` (P, A);
    where there are any `draws` (P, A, 2, FRESH) and `exits` (P, A, 2, n); `example` (P, C, H, W), the
    successful image of the largest margin, with `example_row` (P,) (-1: none) and `example_margin`.
    With `transfer`: `crossed` (P', P, n), right at P on the image made at P', and `unknown` (P, n).
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
    """Attack the points of a pack in one batch; the adversarial images of each, right or wrong."""
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
        # An attack on cost runs on every image, outside the ladder of survivors: those are the costly ones.
        every = attack.form in COST_FORMS
        found = attack_chunk(
            victim, images_all, labels_all, attack, *seeds, rows=None if every else rows, every=every, low=task.low
        )
        took = time.perf_counter() - started
        if rows is None:
            out["clean"][pack] = found.clean.reshape(count, n).cpu()
        attacked = found.clean.nonzero()[:, 0] if rows is None else rows
        if every and rows is not None:
            survivors = torch.zeros_like(found.robust).index_fill(0, rows, True)
            found = replace(found, robust=found.robust & survivors)
        moved[attacked] = found.adversarial[attacked]
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
    # A shared batch's time and passes are shared alike.
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
    """Try images found at other points, as they are, and those that fool rounded too; the rows that still stand."""
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
    """Images of other points, of 8 bits, in the ball of the first attack."""
    return on_grid(moved, images, task.attacks[0].eps, task.attacks[0].norm)


def _joined(points: list[Point | None], n: int) -> Point | None:
    """One point of n rows for each of several that differ only in dials that vary by row."""
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
    """Bits of every point's images at every point, and of images made for the mean loss over points."""
    first = task.attacks[0]
    noise = stream(task.seed, number, "transfer")
    victims = [victim_at(task.model, p) for p in task.points]
    judges = [victim.judge(labels, noise) for victim in victims]
    attack = replace(first, label=f"{first.name} on the mean over points", drop=False)
    mean = over_points([victim.objective(labels, first.loss, "direct", noise) for victim in victims], labels)
    found = attack(mean, images, stream(task.seed, "mean over points", number))

    def stands(x: Tensor) -> list[Tensor]:
        grid = _rounded(task, x, images)
        return [~fooled_by([judge, judge], x, grid)[0].any(0).cpu() for judge in judges]

    with torch.no_grad():
        clean = [~judge.judge(images)[1].cpu() for judge in judges]
    crossed, unknown = [stands(x) for x in moved], stands(found)
    return {
        "crossed": torch.stack([torch.stack(row) & torch.stack(clean) for row in crossed]),
        "unknown": torch.stack(unknown) & torch.stack(clean),
    }


def over_points(objectives: Sequence[object], labels: Tensor) -> Objective:
    """The mean loss over several points: what one who does not know the point maximises."""
    parts = [o for o in objectives if isinstance(o, Objective)]

    def forward(images: Tensor, rows: Tensor | None) -> Tensor:
        return torch.stack([o.forward(images, rows) for o in parts], 1)

    def mean(stack: Tensor, labels: Tensor) -> Tensor:
        losses = [o.loss(stack[:, k], labels) for k, o in enumerate(parts)]
        return torch.stack(losses).mean(0)

    return Objective(
        forward, labels, mean if parts else cross_entropy, decide=lambda stack: stack.mean(1).argmax(1), decisive=False
    )
