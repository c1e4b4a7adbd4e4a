"""Points × attacks → rows. Attacks run in turn, each on the examples that still stand."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.artifact import About, versions
from rheostat.attacks import Attack
from rheostat.costs import ExitCosts, exit_costs, observe
from rheostat.data import SPLITS, Dataset, to_pixels
from rheostat.intervals import exact
from rheostat.outcomes import FRESH, aim_at, attack_chunk, chunks
from rheostat.points import Point, nearest
from rheostat.rows import (
    LEVEL,
    Row,
    add_rows,
    hardware,
    identity,
    read_rows,
    scores,
    settings_of,
    write_bits,
)
from rheostat.tunable import Tunable

Report = Callable[[dict[str, Any]], None]
LEAST_EOT = 20
"""Draws that a gradient on a randomised point is averaged over, at least (EVALUATION.md, 4)."""
KINDS = ("clean", "robust")


@dataclass(frozen=True)
class Subject:
    """What is measured: a module, and what its rows say of it."""

    model: nn.Module
    run: str
    artifact: str | None = None
    composition: str | None = None
    about: About = field(default_factory=About)
    rule: str | None = None
    """How λ chooses norm sets where this is not the model's own dial: "at-0" and so on."""

    def described(self) -> Row:
        """The fields of a row that do not depend on point or attack."""
        model = self.model
        recipe = self.about.provenance.get("recipe", {})
        net: Any = type(model).__name__
        if isinstance(model, Tunable):
            net = {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in model.net.spec.items()
                if k not in ("mean", "std")
            }
        return {
            "run": self.run,
            "artifact": self.artifact,
            "composition": self.composition or recipe.get("paper"),
            "settings": settings_of(model.method) if isinstance(model, Tunable) else {},
            "train": {
                "epochs": recipe.get("train", {}).get("epochs"),
                "images": recipe.get("data", {}).get("train_images"),
                "attack": recipe.get("attack"),
                "seed": recipe.get("train", {}).get("seed"),
                "robustness": recipe.get("method", {}).get("robustness"),
                "seconds": self.about.provenance.get("seconds"),
            },
            "net": net,
        }


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
    report: Report | None = None,
) -> list[Row]:
    """Rows of every point: one per attack (on survivors of those before) and one `worst`.

    `points` is [None] for a plain module. Rows go to `out` (a .jsonl file, bits beside it) as each
    point is done; a point whose rows are there already is not measured again.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; {nearest(split, SPLITS)}")
    if not attacks:
        raise ValueError("an evaluation needs at least one attack")
    device = next((p.device for p in subject.model.parameters()), torch.device("cpu"))
    dataset = dataset.to(device)
    done = {identity(r): r for r in (read_rows(out) if out else [])}
    described, rows = subject.described(), list[Row]()
    parts = chunks(dataset)
    for number, point in enumerate(points):

        def tick(chunk: int, number: int = number) -> None:
            if report is not None:
                done_chunks = number * len(parts) + chunk + 1
                report({"event": "chunk", "done": done_chunks, "total": len(points) * len(parts)})

        planned = _planned(described, point, attacks, dataset, split, tier, seed, subject.rule)
        known = [done[identity(r)] for r in planned if identity(r) in done]
        if len(known) == len(planned):
            new = known
        else:
            bits = _attacked(subject.model, point, attacks, dataset, seed, tick)
            new = _rows(subject, point, dataset, planned, bits, out)
            if out:
                add_rows(out, new)
        rows += new
        if report is not None:
            report({"event": "point", "number": number + 1, "of": len(points), "row": new[-1]})
    return rows


def _planned(
    described: Row,
    point: Point | None,
    attacks: Sequence[Attack],
    dataset: Dataset,
    split: str,
    tier: str,
    seed: int,
    rule: str | None,
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
    worst = {"name": "worst", "of": [a.name for a in attacks], **_budget(attacks)}
    return [
        *(common | {"attack": a.row(), "cumulative": i > 0} for i, a in enumerate(attacks)),
        common | {"attack": worst, "cumulative": False},
    ]


def _budget(attacks: Sequence[Attack]) -> Row:
    return {"norm": attacks[0].norm, "eps": attacks[0].eps}


@dataclass(frozen=True)
class _Bits:
    clean: Tensor
    standing: list[Tensor]
    """After each attack, who still stands."""
    seconds: list[float]
    queries: list[int]
    draws: list[Tensor]
    """Of a randomised point, per attack: images right on each fresh draw, clean and attacked."""
    exits: list[Tensor]
    """Where exits are live, per attack (2, N): the exit taken, clean and attacked; -1: not attacked."""


def _attacked(
    model: nn.Module,
    point: Point | None,
    attacks: Sequence[Attack],
    dataset: Dataset,
    seed: int,
    tick: Callable[[int], None],
) -> _Bits:
    aim = aim_at(model, point)
    label = point.label() if point is not None else ""
    clean = torch.zeros(len(dataset), dtype=torch.bool)
    standing = [clean.clone() for _ in attacks]
    seconds, queries = [0.0] * len(attacks), [0] * len(attacks)
    draws = [torch.zeros(2, FRESH) for _ in attacks]
    exits = [torch.full((2, len(dataset)), -1) for _ in attacks]
    for c, part in enumerate(chunks(dataset)):
        images, labels = to_pixels(dataset.images[part]), dataset.labels[part]
        rows = torch.arange(len(labels), device=labels.device)
        for i, attack in enumerate(attacks):
            started = time.perf_counter()
            name = (seed, label, attack.name, c)
            found = attack_chunk(aim, images[rows], labels[rows], attack, name)
            places = part.start + rows.cpu()
            if i == 0:
                clean[places] = found.clean.cpu()
            standing[i][places] = found.robust.cpu()
            rows = rows[found.robust]
            seconds[i] += time.perf_counter() - started
            queries[i] += found.queries
            draws[i] += 0 if found.draws is None else found.draws
            if found.exits is not None:
                exits[i][:, places] = found.exits.cpu()
        tick(c)
    return _Bits(
        clean, standing, seconds, queries, draws if aim.randomised else [],
        exits if aim.route is not None else [],
    )  # fmt: skip


def _rows(
    subject: Subject,
    point: Point | None,
    dataset: Dataset,
    planned: list[Row],
    bits: _Bits,
    out: str | Path | None,
) -> list[Row]:
    cost = observe(subject.model, dataset.image, point)
    rows: list[Row] = []
    standing = [*bits.standing, bits.standing[-1]]
    seconds = [*bits.seconds, sum(bits.seconds)]
    queries = [*bits.queries, sum(bits.queries)]
    for row, robust, took, passes in zip(planned, standing, seconds, queries, strict=True):
        full = {
            **row,
            **scores(bits.clean, robust),
            "params": cost.params,
            "nonzeros": cost.nonzeros,
            "macs": {"mean": cost.macs, "p50": cost.macs, "p99": cost.macs},
            "macs_nonzero": cost.macs_nonzero,
            "convolution_nonzeros": cost.convolution_nonzeros,
            "exit_shares": None,
            "latency_ms": None,
            "seconds": round(took, 3),
            "queries": passes,
            "versions": versions(),
            "hardware": hardware(dataset.images.device),
            "flags": list(subject.about.provenance.get("flags", [])),
        }
        if bits.exits and isinstance(subject.model, Tunable):
            place = min(len(rows), len(bits.exits) - 1)
            full |= _by_exit(exit_costs(subject.model, point), bits.exits, place)
        if bits.draws:
            full |= _randomised(full, bits.draws, len(rows), planned[:-1])
        if out:
            full["bits"] = write_bits(Path(out).parent, full, bits.clean, robust)
        rows.append(full)
    return rows


def _by_exit(costs: ExitCosts, exits: list[Tensor], place: int) -> Row:
    """A live policy's fields: MACs per image clean and attacked, shares of rows per exit, the paper's count.

    Attacked: over the images that this attack was run on (all, for the first).
    """
    count = len(costs.macs)
    of = {"clean": exits[0][0], "attacked": exits[place][1][exits[place][1] >= 0]}

    def spread(taken: Tensor, cost: tuple[int, ...]) -> dict[str, float]:
        values = torch.tensor(cost, dtype=torch.float64)[taken]
        p50, p99 = values.quantile(torch.tensor([0.5, 0.99], dtype=torch.float64)).tolist()
        return {"mean": float(values.mean()), "p50": p50, "p99": p99}

    found: Row = {"exit_shares": {}, "macs_static": costs.alone[-1]}
    for kind, taken in of.items():
        if not len(taken):
            continue
        found["exit_shares"][kind] = (taken.bincount(minlength=count) / len(taken)).tolist()
        key = "macs" if kind == "clean" else "macs_attacked"
        found[key] = spread(taken, costs.macs)
        found[f"{key}_papers_count"] = spread(taken, costs.alone)["mean"]
    return found


def _randomised(row: Row, draws: list[Tensor], place: int, attacks: list[Row]) -> Row:
    """A randomised point's fields: accuracies as means over fresh draws, their spread, the EOT flag.

    Where several attacks ran on each other's survivors the accuracies stay those of the bits, which
    are of one draw.
    """
    weak = max(a["attack"]["eot"] for a in attacks[place : place + 1] or attacks) < LEAST_EOT
    out: Row = {"flags": [*row["flags"], *(["randomised-without-eot"] if weak else [])]}
    if place > 0 and len(attacks) > 1:
        return out
    shares = {k: v.tolist() for k, v in zip(KINDS, draws[0] / row["n"], strict=True)}
    means = {k: sum(v) / len(v) for k, v in shares.items()}
    intervals = {
        k: list(exact(round(v * row["n"]), row["n"], level=LEVEL)) for k, v in means.items()
    }
    return out | {
        "draws": shares,
        **{f"{k}_accuracy": v for k, v in means.items()},
        "interval": {"level": LEVEL, **intervals},
    }


def from_factory(text: str) -> nn.Module:
    """A user's own module from `package.module:factory`; ValueError says what is wrong with the name."""
    module_name, _, factory_name = text.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r}: {error}") from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        allowed = [n for n in dir(module) if callable(getattr(module, n)) and n[0] != "_"]
        raise ValueError(
            f"{module_name} has no callable {factory_name!r}; {nearest(factory_name, allowed)}"
        )
    try:
        made = factory()
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(f"{text}() raised {type(error).__name__}: {error}") from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"{text} returned a {type(made).__name__}, expected a torch.nn.Module")
    return made
