"""Points × attacks → rows: worst cases per example, attackers with different knowledge of the dial, flags.

The images are cut into chunks (`chunks`), which ranks share; each result is stored when it is complete (`store`), and
rows are computed at the end (`rows`). A killed, resumed or sharded evaluation therefore writes the same rows as an
uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.attacks import Attack
from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.arguments import Attacks, Points, as_attacks, at_points
from rheostat.evaluation.attacked import CHUNK, chunks, victim_at
from rheostat.evaluation.checks import (
    Finding,
    Probe,
    of_attacks,
    of_ladder,
    of_model,
    of_rounding,
    probe,
    probing_attack,
)
from rheostat.evaluation.chunks import WARM_FROM, Record, Task, measured
from rheostat.evaluation.crossing import checked_by_transfer, crossed_rows, stored_crossed, superseded
from rheostat.evaluation.earlier import probed, unfinished, with_transfer_check
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.rows import RowBuilder
from rheostat.evaluation.scoring import Bits, finished
from rheostat.evaluation.stale import check_fit, stored_rows
from rheostat.evaluation.store import ChunkStore
from rheostat.evaluation.target import Target
from rheostat.evaluation.tiers import untargeted
from rheostat.points.point import Point
from rheostat.results.bits import Pair
from rheostat.results.listed import Rows
from rheostat.results.row import Measurement, Row
from rheostat.results.rows import add_rows
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.interrupts import Interrupted, breakable
from rheostat.runtime.precision import full_precision, resolved

Report = Callable[[dict[str, Any]], None]
PROBED = 200
"""The most images that the probing checks of a point use."""


@full_precision()
def evaluate(
    model: nn.Module | Target,
    points: Points,
    attacks: Attacks,
    data: Dataset,
    *,
    options: EvaluationOptions | None = None,
    ranks: Ranks | None = None,
    report: Report | None = None,
) -> Rows:
    """Rows of every point: one per attack (on images that earlier attacks did not fool) and one `worst`.

    `model` is a Tunable, any module (images (B, C, H, W) in [0, 1] → logits (B, K)), or a `Target`, which also
    sets the name in rows. `points` is a grid text ("robustness=0,0.5,1"), a point or a dict, or a list of these;
    None means all positions of the dials, or the only point of a plain module. `attacks` are values, or names with
    `options.eps`. `options` holds everything else.

    With `options.out` the rows are written to that file and their bits beside it. A point whose rows are
    already there is not measured again, and a killed evaluation continues at the chunk it had reached. With
    several ranks, all ranks call this function, and only the first returns rows. Raises ValueError if the file
    holds rows of another model or other data, if `options.split` is not the split of the data, if the images, their
    classes and the outputs of the model do not match, or if an attack cannot take images of this size; on Ctrl-C and
    SIGTERM raises Interrupted, which says what is kept.
    """
    options, ranks = options or EvaluationOptions(), ranks or Ranks()
    target, asked = at_points(model, points, options.name)
    if ranks.world > 1 and options.out is None:
        raise ValueError("several ranks exchange rows through a file; give `out`")
    used = as_attacks(target, attacks, options)
    if options.probing and probing_attack(used) is None:
        given = ", ".join(attack.name for attack in used)
        raise ValueError(
            f"--probe varies PGD on the logits, given {given}; add --attack pgd20 or omit --probe (in Python: add "
            "'pgd20' to the attacks or omit EvaluationOptions(probing=True))"
        )
    for attack in used:
        attack.check_size(*data.image[-2:])
    check_fit(target, data)
    device = next((p.device for p in target.model.parameters()), torch.device("cpu"))
    options = replace(options, attack_precision=resolved(options.attack_precision, device))
    builder = RowBuilder(target, data.to(device), options)
    rows = _rows(builder, asked, used, ranks, report)
    ranks.wait()
    if not ranks.first:
        return Rows()
    for number in range(len(asked)):
        if report is not None:
            report({"event": "point", "number": number + 1, "of": len(asked), "row": rows[number][-1]})
    return Rows(row for number in sorted(rows) for row in rows[number])


def _rows(
    builder: RowBuilder, points: list[Point | None], attacks: list[Attack], ranks: Ranks, report: Report | None
) -> dict[int, list[Row]]:
    """Stored and new rows by the index of their point; the rows of other attackers have index len(points)."""
    options = builder.options
    whole = Task(
        builder.target.model,
        tuple(points),
        tuple(attacks),
        options.seed,
        options.warm,
        options.transfer,
        low=options.attack_precision == "bf16",
    )
    plans = [builder.planned(p, attacks, _lent(points, i) if options.warm else None) for i, p in enumerate(points)]
    done = stored_rows(builder, [m.identity for plan in plans for m in plan], ranks)
    probes = options.probes and probing_attack(attacks) is not None
    wanted = unfinished(plans, done, probes=probes)
    crossed = stored_crossed(builder, [plan[-1] for plan in plans], done.values()) if options.transfer else []
    if crossed is None or (wanted and (options.transfer or options.warm)):
        wanted = list(range(len(points)))
    rows = {i: [done[m.identity] for m in plan] for i, plan in enumerate(plans) if i not in wanted}
    if not wanted:
        return rows | {len(points): crossed or []}
    task = replace(whole, points=tuple(points[i] for i in wanted))
    about = {
        "artifact": builder.artifact,
        "data": builder.fingerprint,
        "rows": [m.identity for i in wanted for m in plans[i]],
        "transfer": "to the last step" if options.transfer else False,
    }
    store = ChunkStore(options.out.parent, about) if options.out else None
    try:
        with breakable():
            records = _run(task, builder.dataset, store, ranks, report, options.fresh)
            if not ranks.first:
                return {}
            made = _made(builder, points, attacks, plans, wanted, task, records, done)
    except KeyboardInterrupt:
        raise Interrupted(_stopped(store, len(chunks(builder.dataset)), options.fresh)) from None
    if options.out:
        new = [pair for of_point in made for pair in of_point]
        written = [row for row, _ in new]
        kept = {row.identity: bits for row, bits in new}
        add_rows(options.out, written, kept, drop=superseded(options.out, written))
    if store is not None:
        store.drop()
    for number, of_point in zip([*wanted, len(points)], made, strict=False):
        rows[number] = [row for row, _ in of_point]
    return rows


def _made(
    builder: RowBuilder,
    points: list[Point | None],
    attacks: list[Attack],
    plans: list[list[Measurement]],
    wanted: list[int],
    task: Task,
    records: list[Record],
    done: Mapping[str, Row],
) -> list[list[tuple[Row, Pair]]]:
    """The rows and bits of every wanted point, then, with transfer, those of other attackers.

    `done` are the stored rows by identity: what was once probed is probed again, so that no check is lost.
    """
    made = []
    for place, i in enumerate(wanted):
        bits, before = _bits(records, place, task), done.get(plans[i][-1].identity)
        found = _checked(builder, points[i], attacks, bits, probes=builder.options.probes or probed(before))
        of_point = finished(builder, points[i], plans[i], bits, found, builder.options.out)
        if not task.transfer:
            row, kept = of_point[-1]
            of_point[-1] = with_transfer_check(row, before), kept
        made.append(of_point)
    if task.transfer:
        worst = [of_point[-1][0] for of_point in made]
        for of_point, row in zip(made, checked_by_transfer(worst, records), strict=True):
            of_point[-1] = (row, of_point[-1][1])
        made.append(crossed_rows(builder, worst, records))
    return made


def _lent(points: Sequence[Point | None], place: int) -> list[str]:
    """The labels of the points whose images a warm start at this point may use."""
    return [p.label() for p in points[max(0, place - WARM_FROM) : place] if p is not None]


def _run(
    task: Task, dataset: Dataset, store: ChunkStore | None, ranks: Ranks, report: Report | None, fresh: bool
) -> list[Record]:
    """The records of all chunks: finished ones are read, others measured; the chunks are divided among ranks."""
    parts, records = chunks(dataset), dict[int, Record]()
    if store is not None and ranks.first:
        if fresh:
            store.drop()
        store.open()
    ranks.wait()
    own = range(ranks.rank, len(parts), ranks.world)
    left = [number for number in own if store is None or not store.has(number)]
    kept = len(own) - len(left)
    if report is not None:
        size = {"points": len(task.points), "attacks": len(task.attacks), "images": len(dataset)}
        report({"event": "plan", **size})
        report({"event": "chunk", "done": kept, "total": len(own)})  # work is timed from here
    for done, number in enumerate(left, kept + 1):
        part = parts[number]
        record = measured(task, to_pixels(dataset.images[part]), dataset.labels[part], number)
        if store is None:
            records[number] = record
        else:
            store.write(number, record)
        if report is not None:
            report({"event": "chunk", "done": done, "total": len(own)})
    ranks.wait()
    if store is None or not ranks.first:
        return list(records.values())
    return [store.read(number) for number in range(len(parts))]


def _stopped(store: ChunkStore | None, total: int, fresh: bool) -> str:
    """A message about an interrupted evaluation: what is kept, and how to continue."""
    if store is None:
        return "stopped; nothing is kept, because no file of rows was given"
    kept = f"stopped after {store.count()} of {total} chunks, which are kept in {store.folder}"
    return f"{kept}; the same command{' without --fresh' if fresh else ''} continues"


def _bits(records: list[Record], place: int, task: Task) -> Bits:
    """The bits of one point over all chunks."""

    def joined(key: str) -> Tensor:
        return torch.cat([r[key][place] for r in records], -1)

    def summed(key: str) -> list[float]:
        return torch.stack([r[key][place] for r in records]).sum(0).tolist()

    victim = victim_at(task.model, task.points[place])
    draws = torch.stack([r["draws"][place] for r in records])
    best = sorted(enumerate(records), key=lambda x: -float(x[1]["example_margin"][place]))
    return Bits(
        clean=joined("clean"),
        standing=list(joined("standing")),
        alone=list(joined("alone")),
        seconds=summed("seconds"),
        queries=[round(q) for q in summed("queries")],
        # A chunk without a correct image was not attacked: its draws are -1 and count as 0 correct.
        draws=list(draws.clamp_min(0).sum(0)) if victim.randomised else [],
        exits=list(joined("exits")) if victim.route is not None else [],
        outside=round(sum(summed("outside"))),
        unverified=round(sum(summed("unverified"))),
        examples=[
            (CHUNK * number + int(r["example_row"][place]), r["example"][place])
            for number, r in best[:4]
            if int(r["example_row"][place]) >= 0
        ],
    )


def _checked(
    builder: RowBuilder, point: Point | None, attacks: Sequence[Attack], bits: Bits, *, probes: bool
) -> tuple[list[Finding], Probe | None]:
    """Findings on a point: from its bits, from a few passes, and with `probes` from additional attacks."""
    target, dataset, options = builder.target, builder.dataset, builder.options
    sample = slice(0, min(PROBED, len(dataset)))
    images, labels = to_pixels(dataset.images[sample]), dataset.labels[sample]
    names = [a.name for a in attacks]
    found = [Finding(name) for name in target.flags]
    found += of_model(target.model, point, images[:100], labels[:100])
    found += of_attacks(attacks)
    found += of_ladder(names, bits.clean, bits.standing[-len(names) :])
    found += of_rounding(*bits.alone[-1])
    if untargeted(options.tier, len(dataset.classes)):
        found.append(Finding("untargeted-set"))
    if bits.outside:
        found.append(Finding("outside-threat-model", {"images": bits.outside}))
    if bits.unverified:
        found.append(Finding("success-not-verified", {"images": bits.unverified}))
    first = probing_attack(attacks)
    if not probes or first is None:
        return found, None
    plain = replace(first, restarts=1, label=first.name)
    more = probe(target.model, point, images, labels, plain, bits.standing[-1][sample], seed=options.seed)
    return [*found, *more.findings], more
