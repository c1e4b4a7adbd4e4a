"""The sections of the appendix on bf16: training and attacks in it beside fp32, all judged in fp32 and paired."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import torch
from markdown import find, signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired
from rheostat.results.labels import percent

METHODS = ("pgd-at", "dual", "oat", "float")
SEEDS = {"0": "", "1": "-s1"}
MARGIN = 0.02
"""The interval of a mean difference has to lie within this, above and below 0."""
Rows = dict[tuple[str, str], dict[float, Row]]


def points(rows: list[Row], run: str) -> dict[float, Row]:
    """Worst-case rows of a run by λ; a network trained for one λ has its point at that λ."""
    return {
        r["at"].get("robustness", r["train"].get("robustness", 1.0)): r
        for rule in ("at-0", None)
        for r in find(rows, run, rule)
        if r.get("attack_precision", "fp32") == "fp32"
    }


def mean_difference(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float, float]:
    """(mean, low, high) of a - b over seeds and images, for pairs of bits (N,) on the same images.

    The unit is the image: its differences are averaged over the seeds first, because they are not independent. The
    95 % interval is normal, and covers the choice of images but not the choice of seeds.
    """
    each = torch.stack([a.double() - b.double() for a, b in pairs]).mean(0)
    spread = NormalDist().inv_cdf(0.975) * float(each.std()) / math.sqrt(len(each))
    return float(each.mean()), float(each.mean()) - spread, float(each.mean()) + spread


def section(rows: list[Row], results: Path) -> str:
    """bf16 training minus fp32 training for each method and point; missing runs are named."""
    body, missing = [], []
    for method in METHODS:
        found: Rows = {
            (precision, seed): points(rows, f"precision-{method}-{precision}{suffix}")
            for precision in ("fp32", "bf16")
            for seed, suffix in SEEDS.items()
        }
        shared = sorted(set.intersection(*(set(by_point) for by_point in found.values())))
        if not shared:
            missing.append(method)
        for place in shared:
            body.append(_line(method, place, {key: by_point[place] for key, by_point in found.items()}, results))
    head = [
        "",
        "λ",
        "SA, fp32",
        "SA, bf16",
        "RA, fp32",
        "RA, bf16",
        "SA, bf16 minus fp32",
        "RA, bf16 minus fp32",
        "within ± 2",
    ]
    return (
        "## Training in bf16 beside training in fp32\n\n`benchmarks/queues/precision.toml`: Fashion-MNIST, 10 000 "
        "images, 6 epochs, a narrow ResNet-8, two seeds. Both sides are judged in fp32 by PGD-20 on the same "
        f'{_images(rows)}test images, rule "at-0". Accuracies are means over the seeds. Differences are paired by '
        "image, with a 95 % interval that covers the choice of images and not that of seeds.\n\n"
        + (table(head, body) if body else "")
        + (f"\nNot yet run: {', '.join(missing)}.\n" if missing else "")
    )


def _images(rows: list[Row]) -> str:
    """How many images judge the networks of this table, before "test images"; the file also has rows of attacks."""
    counts = sorted({r["n"] for r in rows if r["run"].startswith("precision-")})
    return f"{counts[0]:,} ".replace(",", " ") if len(counts) == 1 else ""


def _line(method: str, place: float, here: dict[tuple[str, str], Row], results: Path) -> list[str]:
    means = [
        percent(sum(here[precision, seed][key] for seed in SEEDS) / len(SEEDS))
        for key in ("clean_accuracy", "robust_accuracy")
        for precision in ("fp32", "bf16")
    ]
    gaps = []
    for kind in (0, 1):
        bits = [(read_bits(results, here["bf16", s])[kind], read_bits(results, here["fp32", s])[kind]) for s in SEEDS]
        gaps.append(mean_difference(bits))
    inside = all(low >= -MARGIN and high <= MARGIN for _, low, high in gaps)
    return [method, f"{place:g}", *means, *(signed(*gap) for gap in gaps), "yes" if inside else "no"]


def attacks(rows: list[Row], results: Path) -> str:
    """RA under attacks in bf16 minus RA under the same attacks in fp32, for the first network of each method."""
    body = []
    for method in METHODS:
        for tier in ("quick", "standard"):
            found = {
                precision: r
                for rule in ("at-0", None)
                for r in find(rows, f"attacked-{method}", rule, tier=tier)
                if r["at"].get("robustness", 1.0) == 1.0
                for precision in [r.get("attack_precision", "fp32")]
            }
            if len(found) == 2:
                body.append([method, tier, *_attacked(found, results)])
    head = ["", "tier", "n", "RA, fp32", "RA, bf16", "RA, bf16 minus fp32", "above by at most 0.2"]
    return (
        "## Attacks in bf16, judged in fp32\n\n`rheostat evaluate --attack-precision auto` computes gradients in bf16, "
        "judges every image in fp32, and repeats the last quarter of the steps in fp32 for images that did not fool "
        "the model. The networks were trained as those above, in fp32, and are attacked at λ = 1 "
        "(`benchmarks/queues/attack-precision.toml`).\n\n" + (table(head, body) if body else "Not yet run.\n")
    )


def _attacked(found: dict[str, Row], results: Path) -> list[str]:
    """The cells of one line: n, both accuracies, their paired difference, and whether it is within the limit."""
    gap = paired(read_bits(results, found["bf16"])[1], read_bits(results, found["fp32"])[1])
    shown = [percent(found[p]["robust_accuracy"]) for p in ("fp32", "bf16")]
    return [str(found["fp32"]["n"]), *shown, signed(*gap), "yes" if gap[0] <= 0.002 else "no"]
