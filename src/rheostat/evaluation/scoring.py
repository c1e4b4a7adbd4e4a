"""From bits to the fields of a row: accuracies, cost, exits, spreads of random points."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import chunks
from rheostat.evaluation.checks import Finding, Probe
from rheostat.evaluation.chunks import Record
from rheostat.evaluation.target import Subject
from rheostat.models.artifact import versions
from rheostat.models.costs import ExitCosts, exit_costs, observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.intervals import exact, share
from rheostat.results.rows import LEVEL, Row, hardware, identity, scores, write_bits
from rheostat.runtime.files import write_tensors

LEAST_EOT = 20
"""Draws that a gradient on a randomised point is averaged over, at least (EVALUATION.md, 4)."""
KINDS = ("clean", "robust")


@dataclass(frozen=True)
class Bits:
    """What the attacks left of a data set at one point."""

    clean: Tensor
    standing: list[Tensor]
    """After each attack, who still stands."""
    seconds: list[float]
    queries: list[int]
    draws: list[Tensor]
    """Of a randomised point, per attack: images right on each fresh draw, clean and attacked."""
    exits: list[Tensor]
    """Where exits are live, per attack (2, N): the exit taken, clean and attacked; -1: not attacked."""
    outside: int = 0
    unverified: int = 0
    examples: list[tuple[int, Tensor]] = field(default_factory=list)
    """Places and images (C, H, W) of successes of the largest margins."""


def finished(
    subject: Subject,
    point: Point | None,
    dataset: Dataset,
    planned: list[Row],
    bits: Bits,
    found: tuple[list[Finding], Probe | None],
    out: str | Path | None,
) -> list[Row]:
    """A point's planned rows filled; the last, the worst case, also with what the checks found."""
    cost = observe(subject.model, dataset.image, point)
    rows: list[Row] = []
    standing = [*bits.standing, bits.standing[-1]]
    seconds = [*bits.seconds, sum(bits.seconds)]
    queries = [*bits.queries, sum(bits.queries)]
    flags = sorted({f.flag for f in found[0]})
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
            "flags": flags,
        }
        if bits.exits and isinstance(subject.model, Tunable):
            place = min(len(rows), len(bits.exits) - 1)
            full |= _by_exit(exit_costs(subject.model, point), bits.exits, place)
        if bits.draws:
            full |= _randomised(full, bits.draws, len(rows), planned[:-1])
        if row["attack"]["name"] == "worst":
            full |= _details(subject, point, dataset, bits, found)
        if out:
            full["bits"] = write_bits(Path(out).parent, full, bits.clean, robust)
            if row["attack"]["name"] == "worst" and bits.examples:
                full["examples"] = _write_examples(Path(out).parent, full, dataset, bits, subject, point)
        rows.append(full)
    return rows


def _details(
    subject: Subject, point: Point | None, dataset: Dataset, bits: Bits, found: tuple[list[Finding], Probe | None]
) -> Row:
    """What a report shows of a point beside its accuracies."""
    findings, probed = found
    labels = dataset.labels.cpu()
    per_class = {
        name: [_share(kind[labels == k]) for k in range(len(dataset.classes))]
        for name, kind in (("clean", bits.clean), ("robust", bits.standing[-1]))
    }
    return {
        "checks": [{"flag": f.flag, **f.figures} for f in findings],
        "per_class": {"classes": list(dataset.classes), **per_class},
        "calibration": calibration(_logits(subject, point, dataset), labels),
        "eps_curve": None if probed is None else [list(pair) for pair in probed.eps_curve],
        "loss_curve": None if probed is None else list(probed.loss_curve),
    }


def _share(bits: Tensor) -> float | None:
    return share(bits) if len(bits) else None


@torch.no_grad()
def _logits(subject: Subject, point: Point | None, dataset: Dataset) -> Tensor:
    """(N, K) logits on the clean images."""
    model = subject.at(point)
    parts = [model(to_pixels(dataset.images[part])).float().cpu() for part in chunks(dataset)]
    return torch.cat(parts)


BINS = 15


def calibration(logits: Tensor, labels: Tensor) -> Row:
    """Expected calibration error (Guo et al. 2017) over 15 equal bins of confidence, and the bins.

    A bin is [mean confidence, accuracy, share of images].
    """
    sure, said = logits.softmax(1).max(1)
    right = (said == labels).double()
    place = (sure * BINS).long().clamp(0, BINS - 1)
    bins = [
        [float(sure[place == b].mean()), float(right[place == b].mean()), float((place == b).double().mean())]
        for b in range(BINS)
        if bool((place == b).any())
    ]
    return {"ece": sum(abs(c - a) * part for c, a, part in bins), "bins": bins}


def _write_examples(folder: Path, row: Row, dataset: Dataset, bits: Bits, subject: Subject, point: Point | None) -> str:
    """Clean and adversarial images of the worst successes, with labels: a file that the row names."""
    places = torch.tensor([place for place, _ in bits.examples])
    moved = torch.stack([image for _, image in bits.examples])
    model = subject.at(point)
    with torch.no_grad():
        said = model(moved.to(dataset.images.device)).argmax(1).cpu()
    name = f"examples/{identity(row)}.safetensors"
    tensors = {
        "clean": to_pixels(dataset.images[places.to(dataset.images.device)]),
        "adversarial": moved,
        "labels": dataset.labels.cpu()[places],
        "said": said,
    }
    write_tensors(folder / name, tensors, {"run": row["run"], "at": row["at"]})
    return name


def crossed_rows(subject: Subject, known: list[list[Row]], records: list[Record], out: str | Path | None) -> list[Row]:
    """Rows for an attacker who made the images at another point, does not know it, or may choose it.

    `known`: the rows of every point, in the records' order. Transfer: one row per pair of points.
    Unknown: per point, the worse of one attack on the mean loss over all points and of the one point
    whose images do most harm on average. Chosen: an image stands if it stands at every point, under
    the images of every point.
    """
    clean, standing = (torch.cat([r[k] for r in records], -1) for k in ("clean", "standing"))
    crossed, unknown = (torch.cat([r[k] for r in records], -1) for k in ("crossed", "unknown"))
    worst = [rows[-1] for rows in known]
    single = int(crossed.double().mean((1, 2)).argmin())
    out_rows: list[Row] = []

    def add(base: Row, knowledge: str, attack: Row, right: Tensor, robust: Tensor) -> None:
        budget = {k: base["attack"][k] for k in ("norm", "eps")}
        kept = {k: v for k, v in base.items() if k not in _OF_ONE_POINT}
        row = {
            **kept,
            **scores(right, robust),
            "knowledge": knowledge,
            "attack": {**attack, **budget},
            "cumulative": False,
            "flags": [],
        }
        if out:
            row["bits"] = write_bits(Path(out).parent, row, right, robust)
        out_rows.append(row)

    for q, made in enumerate(worst):
        for p, scored in enumerate(worst):
            robust = standing[p, -1] if p == q else crossed[q, p]
            add(scored, "transfer", {"name": "transfer", "made_at": made["at"]}, clean[p], robust)
    for p, scored in enumerate(worst):
        attack = {"name": "unknown", "of": ["mean over points", "best single point"], "made_at": worst[single]["at"]}
        add(scored, "unknown", attack, clean[p], unknown[p] & crossed[single, p])
    stands = standing[:, -1].all(0) & crossed.flatten(0, 1).all(0)
    attack = {"name": "chosen", "of": [r["at"] for r in worst]}
    add({**worst[0], "at": {}}, "chosen", attack, clean.all(0), stands)
    return out_rows


_OF_ONE_POINT = (
    "checks",
    "per_class",
    "calibration",
    "eps_curve",
    "loss_curve",
    "examples",
    "flags",
    "seconds",
    "queries",
    "draws",
)


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
    out: Row = {"flags": sorted({*row["flags"], *(["randomised-without-eot"] if weak else [])})}
    if place > 0 and len(attacks) > 1:
        return out
    shares = {k: v.tolist() for k, v in zip(KINDS, draws[0] / row["n"], strict=True)}
    means = {k: sum(v) / len(v) for k, v in shares.items()}
    intervals = {k: list(exact(round(v * row["n"]), row["n"], level=LEVEL)) for k, v in means.items()}
    return out | {
        "draws": shares,
        **{f"{k}_accuracy": v for k, v in means.items()},
        "interval": {"level": LEVEL, **intervals},
    }
