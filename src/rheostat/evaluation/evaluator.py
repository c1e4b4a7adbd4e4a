"""Points × attacks → rows: worst cases per example, what the attacker knows of the dial, flags beside.

Work is cut into units (`units`), kept as each is done (`journal`) and shared by ranks; rows are made of
them at the end, so that a killed, resumed or sharded evaluation writes what an undisturbed one would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheostat.attacks import Attack
from rheostat.data import SPLITS, Dataset, to_pixels
from rheostat.evaluation.attacked import CHUNK, aim_at, chunks
from rheostat.evaluation.checks import Finding, Probe, gains, of_attacks, of_ladder, of_model, probe
from rheostat.evaluation.chunks import WARM_FROM, Record, Task, measured
from rheostat.evaluation.scoring import Bits, crossed_rows, finished
from rheostat.evaluation.store import Journal
from rheostat.evaluation.target import Subject
from rheostat.evaluation.tiers import untargeted
from rheostat.points.point import Point
from rheostat.results.rows import Row, add_rows, identity, read_rows, write_rows
from rheostat.runtime.choices import nearest
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.precision import full_precision

Report = Callable[[dict[str, Any]], None]
PROBED = 200
"""Images that the probing checks of a point are made on, at most."""


@full_precision()
def evaluate(
    subject: Subject,
    points: Sequence[Point | None],
    attacks: Sequence[Attack],
    dataset: Dataset,
    *,
    split: str = "test",
    out: str | Path | None = None,
    tier: str = "quick",
    seed: int = 0,
    warm: bool = False,
    transfer: bool = False,
    probing: bool | None = None,
    fresh: bool = False,
    ranks: Ranks | None = None,
    report: Report | None = None,
) -> list[Row]:
    """Rows of every point: one per attack (on survivors of those before) and one `worst`.

    `points` is [None] for a plain module. Rows go to `out` (a .jsonl file, bits beside it); a point
    whose rows are there already is not measured again, and a killed evaluation goes on at the chunk
    where it was. ValueError if rows or chunks there are of another model or other data, unless
    `fresh` drops them. `warm` and `transfer`: see `Task`; transfer adds rows for an attacker who made
    the images elsewhere, who does not know the point, and who may choose it. `probing` (default: in
    every tier but quick) adds the checks that cost attacks of their own. Under several ranks all call
    this, and only the first returns rows.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; {nearest(split, SPLITS)}")
    if not attacks:
        raise ValueError("an evaluation needs at least one attack")
    ranks = ranks or Ranks()
    if ranks.world > 1 and out is None:
        raise ValueError("several ranks meet in a file: give `out`")
    device = next((p.device for p in subject.model.parameters()), torch.device("cpu"))
    dataset = dataset.to(device)
    described = subject.described() | {"dataset_hash": dataset.fingerprint}
    probing = tier != "quick" if probing is None else probing
    plans = [
        _planned(
            described, p, attacks, dataset, split, tier, seed, subject.rule, None if not warm else _lent(points, i)
        )
        for i, p in enumerate(points)
    ]
    if out and fresh and ranks.first:
        write_rows(out, [r for r in read_rows(out) if r["run"] != subject.run])
    ranks.wait()
    done = {identity(r): r for r in (read_rows(out) if out else [])}
    here = {"dataset": dataset.name, "split": split, "n": len(dataset)}
    _same_model(list(done.values()), described | here, out)
    wanted = [i for i, plan in enumerate(plans) if any(identity(r) not in done for r in plan)]
    if (warm or transfer) and (wanted or transfer):
        wanted = list(range(len(points)))
    rows = {i: [done[identity(r)] for r in plan] for i, plan in enumerate(plans) if i not in wanted}
    if wanted:
        task = Task(subject.model, tuple(points[i] for i in wanted), tuple(attacks), seed, warm, transfer)
        about = {
            "artifact": described["artifact"],
            "data": described["dataset_hash"],
            "rows": [identity(r) for i in wanted for r in plans[i]],
            "transfer": transfer,
        }
        journal = Journal(Path(out).parent, subject.run, about) if out else None
        record = _run(task, dataset, journal, ranks, report, fresh)
        if not ranks.first:
            ranks.wait()
            return []
        for place, i in enumerate(wanted):
            bits = _bits(record, place, task)
            found = _checked(subject, points[i], dataset, attacks, bits, tier, probing, seed)
            rows[i] = finished(subject, points[i], dataset, plans[i], bits, found, out)
        crossing = []
        if transfer:
            crossing = crossed_rows(subject, [rows[i] for i in wanted], record, out)
            _compare(rows, wanted, record)
        if out:
            add_rows(out, [r for i in wanted for r in rows[i]] + crossing)
        if journal is not None:
            journal.close()
        rows[len(points)] = crossing
    if not ranks.first:
        ranks.wait()
        return []
    ranks.wait()
    for number in range(len(points)):
        if report is not None:
            report({"event": "point", "number": number + 1, "of": len(points), "row": rows[number][-1]})
    return [r for i in sorted(rows) for r in rows[i]]


def _lent(points: Sequence[Point | None], place: int) -> list[str]:
    """The points whose images a warm start at this one may use."""
    return [p.label() for p in points[max(0, place - WARM_FROM) : place] if p is not None]


def _same_model(rows: list[Row], described: Row, out: str | Path | None) -> None:
    """ValueError if a file holds rows of this run that were measured on another model or other data."""
    for row in rows:
        same = all(row[k] == described.get(k) for k in ("run", "dataset", "split", "n"))
        if row["run"] == described["run"] and row["artifact"] != described["artifact"]:
            what = f"another model ({row['artifact']}, now {described['artifact']})"
        elif same and row.get("dataset_hash") not in (None, described["dataset_hash"]):
            what = f"other data ({row['dataset_hash']}, now {described['dataset_hash']})"
        else:
            continue
        raise ValueError(
            f"{out} holds rows of {row['run']!r} measured on {what}; --fresh drops them, --name gives "
            "this one another name"
        )


def _planned(
    described: Row,
    point: Point | None,
    attacks: Sequence[Attack],
    dataset: Dataset,
    split: str,
    tier: str,
    seed: int,
    rule: str | None,
    lent: list[str] | None,
) -> list[Row]:
    """The rows that a point will give, before they are measured."""
    common = described | {
        "dataset": dataset.name,
        "split": split,
        "at": point.numbers() if point is not None else {},
        "rule": rule,
        "tier": tier,
        "knowledge": "known",
        "n": len(dataset),
        "seed": seed,
        "reported": None,
    }
    budget = {"norm": attacks[0].norm, "eps": attacks[0].eps}
    shown = [a.row() for a in attacks]
    if lent is not None:
        shown.insert(0, {"name": "warm", "from": lent, **budget, "eot": 1})
    worst = {"name": "worst", "of": [a["name"] for a in shown], **budget}
    return [
        *(common | {"attack": a, "cumulative": i > 0} for i, a in enumerate(shown)),
        common | {"attack": worst, "cumulative": False},
    ]


def _run(
    task: Task, dataset: Dataset, journal: Journal | None, ranks: Ranks, report: Report | None, fresh: bool
) -> list[Record]:
    """Every chunk's record: read where it is done, measured where it is not; chunks are dealt to ranks."""
    parts, records = chunks(dataset), dict[int, Record]()
    if journal is not None and ranks.first:
        if fresh:
            journal.drop()
        journal.open()
    ranks.wait()
    mine = range(ranks.rank, len(parts), ranks.world)
    for done, number in enumerate(mine, 1):
        if journal is None or not journal.has(number):
            part = parts[number]
            record = measured(task, to_pixels(dataset.images[part]), dataset.labels[part], number)
            if journal is None:
                records[number] = record
            else:
                journal.write(number, record)
        if report is not None:
            report({"event": "chunk", "done": done, "total": len(mine)})
    ranks.wait()
    if journal is None or not ranks.first:
        return list(records.values())
    return [journal.read(number) for number in range(len(parts))]


def _bits(records: list[Record], place: int, task: Task) -> Bits:
    """One point's bits over all chunks."""

    def joined(key: str) -> Tensor:
        return torch.cat([r[key][place] for r in records], -1)

    def summed(key: str) -> list[float]:
        return torch.stack([r[key][place] for r in records]).sum(0).tolist()

    aim = aim_at(task.model, task.points[place])
    draws = torch.stack([r["draws"][place] for r in records])
    best = sorted(enumerate(records), key=lambda x: -float(x[1]["example_margin"][place]))
    return Bits(
        clean=joined("clean"),
        standing=list(joined("standing")),
        seconds=summed("seconds"),
        queries=[round(q) for q in summed("queries")],
        # A chunk without a standing image was not attacked: its draws are -1 and count as none right.
        draws=list(draws.clamp_min(0).sum(0)) if aim.randomised else [],
        exits=list(joined("exits")) if aim.route is not None else [],
        outside=round(sum(summed("outside"))),
        unverified=round(sum(summed("unverified"))),
        examples=[
            (CHUNK * number + int(r["example_row"][place]), r["example"][place])
            for number, r in best[:4]
            if int(r["example_row"][place]) >= 0
        ],
    )


def _checked(
    subject: Subject,
    point: Point | None,
    dataset: Dataset,
    attacks: Sequence[Attack],
    bits: Bits,
    tier: str,
    probing: bool,
    seed: int,
) -> tuple[list[Finding], Probe | None]:
    """Findings on a point: from its bits, from a few passes, and with `probing` from more attacks."""
    sample = slice(0, min(PROBED, len(dataset)))
    images, labels = to_pixels(dataset.images[sample]), dataset.labels[sample]
    names = [a.name for a in attacks]
    found = [Finding(name) for name in subject.about.provenance.get("flags", [])]
    found += of_model(subject.model, point, images[:100], labels[:100])
    found += of_attacks(attacks)
    found += of_ladder(names, bits.clean, bits.standing[-len(names) :])
    if untargeted(tier, len(dataset.classes)):
        found.append(Finding("untargeted-set"))
    if bits.outside:
        found.append(Finding("outside-threat-model", {"images": bits.outside}))
    if bits.unverified:
        found.append(Finding("success-not-verified", {"images": bits.unverified}))
    first = next((a for a in attacks if a.kind == "pgd" and a.form == "direct"), None)
    if not probing or first is None:
        return found, None
    plain = replace(first, restarts=1, label=first.name)
    probed = probe(subject.model, point, images, labels, plain, bits.standing[-1][sample], seed=seed)
    return [*found, *probed.findings], probed


def _compare(rows: dict[int, list[Row]], wanted: list[int], records: list[Record]) -> None:
    """Raise `transfer-beats-known` where images made elsewhere do more harm than those of this point."""
    crossed, standing, unknown = (
        torch.cat([r[key] for r in records], -1) for key in ("crossed", "standing", "unknown")
    )
    for p, i in enumerate(wanted):
        row = rows[i][-1]
        others = [(rows[k][-1]["at"], crossed[q, p]) for q, k in enumerate(wanted) if q != p]
        others.append(("mean over points", unknown[p]))
        found = [
            {"flag": f.flag, **f.figures, "made at": made}
            for made, bits in others
            for f in gains(standing[p, -1], bits, "transfer-beats-known", points=1.0)
        ]
        if found:
            row["checks"].append(max(found, key=lambda f: f["gain"]))
            row["flags"] = sorted({*row["flags"], "transfer-beats-known"})
