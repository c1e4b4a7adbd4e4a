"""The fields of a row computed from bits: accuracies, cost, exits, the spread of randomised points."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheostat.data import Dataset, to_pixels
from rheostat.evaluation.attacked import chunks
from rheostat.evaluation.checks import Finding, Probe
from rheostat.evaluation.rows import RowBuilder
from rheostat.evaluation.target import Target
from rheostat.models.costs import ExitCosts, exit_costs, observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.bits import Pair
from rheostat.results.intervals import LEVEL, exact, share
from rheostat.results.row import Measurement, Row
from rheostat.runtime.files import write_tensors

LEAST_EOT = 20
"""The least number of draws over which gradients at a randomised point are averaged (EVALUATION.md, 4)."""
KINDS = ("clean", "robust")
ALONE = ("robust_accuracy_returned", "robust_accuracy_rounded")
"""Fields of a row: robust accuracy if only the returned images count, and if only the rounded images count."""


@dataclass(frozen=True)
class Bits:
    """The results of all attacks on a data set of N images at one point."""

    clean: Tensor
    standing: list[Tensor]
    """Per attack (N,): which images are still classified correctly after it."""
    seconds: list[float]
    queries: list[int]
    draws: list[Tensor]
    """Only for a randomised point, per attack (2, FRESH): correct images on each fresh draw, clean and attacked."""
    alone: list[Tensor]
    """Per attack (2, N): rows still correct if only the returned images, or only the rounded images, count."""
    exits: list[Tensor]
    """Only if exits are live, per attack (2, N): the exit taken, clean and attacked; -1: not attacked."""
    outside: int = 0
    unverified: int = 0
    examples: list[tuple[int, Tensor]] = field(default_factory=list)
    """Indices and images (C, H, W) of the successes with the largest margins."""


def finished(
    builder: RowBuilder,
    point: Point | None,
    planned: list[Measurement],
    bits: Bits,
    found: tuple[list[Finding], Probe | None],
    out: Path | None,
) -> list[tuple[Row, Pair]]:
    """The planned rows of a point with their bits; the last row, the worst case, includes the checks' findings."""
    target, dataset = builder.target, builder.dataset
    cost = observe(target.model, dataset.image, point)
    flags = sorted({f.flag for f in found[0]})
    whole = {
        "params": cost.params,
        "nonzeros": cost.nonzeros,
        "macs": {"mean": cost.macs, "p50": cost.macs, "p99": cost.macs},
        "macs_nonzero": cost.macs_nonzero,
        "convolution_nonzeros": cost.convolution_nonzeros,
        "flags": flags,
    }
    standing, alone = [*bits.standing, bits.standing[-1]], [*bits.alone, bits.alone[-1]]
    seconds = [*bits.seconds, sum(bits.seconds)]
    queries = [*bits.queries, sum(bits.queries)]
    rows: list[tuple[Row, Pair]] = []
    costs = exit_costs(target.model, point) if bits.exits and isinstance(target.model, Tunable) else None
    for number, (of, robust) in enumerate(zip(planned, standing, strict=True)):
        fields = {**whole, "seconds": round(seconds[number], 3), "queries": queries[number]}
        if costs is not None:
            place = number if number < len(bits.exits) else _costliest(costs, bits.exits)
            fields |= by_exit(costs, bits.exits, place)
        if bits.draws:
            fields |= _randomised(flags, bits.draws, number, planned)
        else:
            fields |= dict(zip(ALONE, map(share, alone[number]), strict=True))
        if of.attack.name == "worst":
            fields |= _details(target, point, dataset, bits, found)
            if out is not None and bits.examples:
                fields["examples"] = _write_examples(out.parent, of, dataset, bits, target, point)
        rows.append((builder.row(of, bits.clean, robust, **fields), (bits.clean, robust)))
    return rows


def _details(
    target: Target, point: Point | None, dataset: Dataset, bits: Bits, found: tuple[list[Finding], Probe | None]
) -> dict[str, Any]:
    """The fields of a report beyond accuracies: checks, accuracy per class, calibration, curves."""
    findings, probed = found
    labels = dataset.labels.cpu()
    per_class = {
        name: [_share(kind[labels == k]) for k in range(len(dataset.classes))]
        for name, kind in (("clean", bits.clean), ("robust", bits.standing[-1]))
    }
    details: dict[str, Any] = {
        "checks": [{"flag": f.flag, "figures": f.figures} for f in findings],
        "per_class": {"classes": list(dataset.classes), **per_class},
        "calibration": calibration(_logits(target, point, dataset), labels),
    }
    if probed is not None:
        details |= {"eps_curve": list(probed.eps_curve), "loss_curve": list(probed.loss_curve)}
    return details


def _share(bits: Tensor) -> float | None:
    return share(bits) if len(bits) else None


@torch.no_grad()
def _logits(target: Target, point: Point | None, dataset: Dataset) -> Tensor:
    """Logits on the clean images, (N, K)."""
    model = target.at(point)
    parts = [model(to_pixels(dataset.images[part])).float().cpu() for part in chunks(dataset)]
    return torch.cat(parts)


BINS = 15


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Expected calibration error (Guo et al. 2017) over 15 equal bins of confidence, and the non-empty bins.

    `logits` (N, K), `labels` (N,). A bin is [mean confidence, accuracy, share of images].
    """
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).double()
    bin_of = (confidence * BINS).long().clamp(0, BINS - 1)
    bins = [
        [float(confidence[bin_of == b].mean()), float(right[bin_of == b].mean()), float((bin_of == b).double().mean())]
        for b in range(BINS)
        if bool((bin_of == b).any())
    ]
    return {"ece": sum(abs(c - a) * part for c, a, part in bins), "bins": bins}


def _write_examples(
    folder: Path, of: Measurement, dataset: Dataset, bits: Bits, target: Target, point: Point | None
) -> str:
    """Write the clean and adversarial images with the largest margins, and their labels; returns the file name."""
    places = torch.tensor([place for place, _ in bits.examples])
    moved = torch.stack([image for _, image in bits.examples])
    model = target.at(point)
    with torch.no_grad():
        predicted = model(moved.to(dataset.images.device)).argmax(1).cpu()
    name = f"examples/{of.identity}.safetensors"
    tensors = {
        "clean": to_pixels(dataset.images[places.to(dataset.images.device)]),
        "adversarial": moved,
        "labels": dataset.labels.cpu()[places],
        "said": predicted,
    }
    write_tensors(folder / name, tensors, {"run": of.run, "at": of.at})
    return name


def _costliest(costs: ExitCosts, exits: list[Tensor]) -> int:
    """The index of the attack with the highest mean cost among those run on every image; 0 if there is none."""
    mean = [
        float(torch.tensor(costs.macs, dtype=torch.float64)[taken].mean()) if bool((taken >= 0).all()) else 0.0
        for _, taken in exits
    ]
    return mean.index(max(mean))


def by_exit(costs: ExitCosts, exits: list[Tensor], place: int) -> dict[str, Any]:
    """The fields of a live exit policy: MACs per image clean and attacked, shares of rows per exit, the paper's count.

    The attacked values cover the images that this attack ran on. The worst case takes the costliest attack among
    those that ran on every image.
    """
    count = len(costs.macs)
    of = {"clean": exits[0][0], "attacked": exits[place][1][exits[place][1] >= 0]}

    def spread(taken: Tensor, cost: tuple[int, ...]) -> dict[str, float]:
        values = torch.tensor(cost, dtype=torch.float64)[taken]
        p50, p99 = values.quantile(torch.tensor([0.5, 0.99], dtype=torch.float64)).tolist()
        return {"mean": float(values.mean()), "p50": p50, "p99": p99}

    found: dict[str, Any] = {"exit_shares": {}, "macs_static": costs.alone[-1]}
    for kind, taken in of.items():
        if not len(taken):
            continue
        found["exit_shares"][kind] = (taken.bincount(minlength=count) / len(taken)).tolist()
        key = "macs" if kind == "clean" else "macs_attacked"
        found[key] = spread(taken, costs.macs)
        found[f"{key}_papers_count"] = spread(taken, costs.alone)["mean"]
    return found


def _randomised(flags: list[str], draws: list[Tensor], number: int, planned: list[Measurement]) -> dict[str, Any]:
    """The fields of a randomised point: accuracies as means over fresh draws, their spread, the EOT flag.

    If several attacks ran on each other's survivors, the accuracies remain those of the bits, which come
    from one draw.
    """
    attacks, n = [p.attack for p in planned[:-1]], planned[0].n
    weak = max(a.eot or 1 for a in attacks[number : number + 1] or attacks) < LEAST_EOT
    out: dict[str, Any] = {"flags": sorted({*flags, *(["randomised-without-eot"] if weak else [])})}
    if number > 0 and len(attacks) > 1:
        return out
    shares = {k: v.tolist() for k, v in zip(KINDS, draws[0] / n, strict=True)}
    means = {k: sum(v) / len(v) for k, v in shares.items()}
    intervals = {k: exact(round(v * n), n, level=LEVEL) for k, v in means.items()}
    return out | {
        "draws": shares,
        **{f"{k}_accuracy": v for k, v in means.items()},
        "interval": {"level": LEVEL, **intervals},
    }
