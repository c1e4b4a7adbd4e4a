"""The section of the appendix on the runs of the CIFAR-10 models: what each recipe reaches under both tiers."""

from __future__ import annotations

from pathlib import Path

from markdown import find, per_cent, signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired

RUNS = {
    "cifar10-resnet20": "ResNet-20: N-FGSM on half of each batch, fp32",
    "cifar10-resnet20-e50": "ResNet-20: N-FGSM on 65 %, smoothing 0.3 of attacked rows",
    "cifar10-resnet20-pgd2": "ResNet-20: PGD-2 on 70 %, selected by the margin",
    "cifar10-resnet20-pgd2-s1": "the same with seed 1",
    "cifar10-resnet18": "ResNet-18 of width 32: N-FGSM on 60 %, smoothing 0.3 of attacked rows",
    "cifar10-resnet18-pgd2": "ResNet-18 of width 32: PGD-2 on 65 %, selected by the margin",
}
"""Run → its network, and its main options."""
NAMES = (
    "run",
    "epochs",
    "SA(0)",
    "SA(1)",
    "RA(1), `quick`",
    "n, `quick`",
    "RA(1), `standard`",
    "n, `standard`",
    "minus its PGD-20",
)


def section(rows: list[Row], results: Path) -> str:
    """SA and RA at the ends of the dial of every run, and by how much the attacks of `standard` lower RA."""
    body = []
    for run, what in RUNS.items():
        quick = {t: _largest(rows, run, "quick", t) for t in (0.0, 1.0)}
        first, last = quick[0.0], quick[1.0]
        if first is None or last is None:
            continue
        strong = _largest(rows, run, "standard", 1.0)
        body.append(
            [
                what,
                str(last["train"]["epochs"]),
                per_cent(first["clean_accuracy"]),
                per_cent(last["clean_accuracy"]),
                per_cent(last["robust_accuracy"]),
                str(last["n"]),
                *(["", "", ""] if strong is None else _lowered(rows, strong, results)),
            ]
        )
    title = "## CIFAR-10 models, one after another (`benchmarks/queues/zoo`)\n\n"
    if not body:
        return title + "Not yet run.\n"
    return (
        f"{title}Every model is one run of `dual` on all training images less 5 000, measured on test images. The runs "
        "differ in several options, so a difference between two of them has no single cause; the ablation above "
        "changes one option at a time. The last column is RA under `standard` minus RA under its PGD-20 alone, on the "
        "same images.\n\n" + table(NAMES, body)
    )


def _largest(rows: list[Row], run: str, tier: str, t: float) -> Row | None:
    """The worst case of a tier at a position of the dial, on the most test images."""
    mine = [r for r in find(rows, run, None, tier=tier) if r["split"] == "test" and r["at"] == {"robustness": t}]
    return max(mine, key=lambda r: r["n"], default=None)


def _lowered(rows: list[Row], strong: Row, results: Path) -> list[str]:
    """RA under `standard`, its number of images, and RA minus that under its PGD-20 alone."""
    alone = next((r for r in rows if _same(r, strong) and r["attack"]["name"] == "pgd20"), None)
    if alone is None:
        raise ValueError(f"{strong['run']}: no row of pgd20 in the tier standard")
    minus = paired(read_bits(results, strong)[1], read_bits(results, alone)[1])
    return [per_cent(strong["robust_accuracy"]), str(strong["n"]), signed(*minus)]


def _same(row: Row, other: Row) -> bool:
    """Whether two rows differ in their attack at most."""
    return all(row[k] == other[k] for k in ("run", "artifact", "tier", "split", "at", "rule", "n", "knowledge"))
