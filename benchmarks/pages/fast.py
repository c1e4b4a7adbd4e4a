"""The sections of the appendix on the time to a robust model: the timed run, and what its recipe's parts gain."""

from __future__ import annotations

from pathlib import Path

from markdown import find, per_cent, signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired

BASE = "fast-base"
CHANGES = {
    "fast-base": "none",
    "fast-no-average": "without the average of weights",
    "fast-cosine": "cosine schedule in place of one-cycle",
    "fast-smoothing": "smoothing 0.3 of attacked rows",
    "fast-pgd2": "PGD-2 in place of N-FGSM",
    "fast-early-size": "images of 24 × 24 in the first half",
    "fast-eps": "eps rises over the first 30 % of training",
    "fast-halves": "50 % of a batch attacked in place of 60 %",
}
GOAL = {"SA(0)": 89.0, "SA(1)": 73.0, "RA(1)": 42.0}
"""Per cent, in one network: CIFAR-10, eps 8/255, RA under PGD-20."""
MINUTES = 60
RUNS = {
    "cifar10-resnet18": "one network: N-FGSM on 60 % of each batch, smoothing 0.3 of attacked rows",
    "cifar10-fast": "one network: PGD-2 on 60 %, images of 24 × 24 in the first half",
}
"""Timed run → its main options; every one is `dual` on ResNet-18 of width 32, on all training images less 5 000."""
DEDICATED = ("cifar10-fast-at-0", "cifar10-fast-at-1")
"""One network for each end: SA(0) is that of the first, SA(1) and RA(1) are those of the second."""
TWO = (
    "*Two networks* have the options of cifar10-fast and fewer epochs. One is trained on clean images alone, and the "
    "other on attacked images alone; their minutes and FLOPs are added.\n\n"
)


def ends(rows: list[Row]) -> dict[float, Row]:
    """The rows at both ends of the dial by λ, the later of two; empty unless both are there."""
    found = {r["at"]["robustness"]: r for r in rows}
    return found if set(found) == {0.0, 1.0} else {}


def timed(rows: list[Row], counts: list[Row]) -> str:
    """Time and FLOPs of each training, and what it reaches on calibrate-choose (judged) and on test (reported)."""
    title = "## Time to a robust model (`benchmarks/queues/time-to-robust.toml`)\n\n"
    flops = {r["run"]: r["flops"] for r in counts}
    splits = ("calibrate-choose", "test")
    body = [line for run in RUNS for split in splits for line in _reached(RUNS[run], _both(rows, run, split), flops)]
    two = [line for split in splits for line in _reached("two networks", _dedicated(rows, split), flops)]
    body += two
    if not body:
        return title + "Not yet run.\n"
    goal = ", ".join(f"{k} ≥ {v:g}" for k, v in GOAL.items())
    return (
        f"{title}Goal: one network reaches {goal} under PGD-20 after at most {MINUTES} minutes of training on two "
        "cores. It is judged on calibrate-choose; test images are reported once. FLOPs are those of all steps, attacks "
        "included, and a multiplication with its addition is two (`benchmarks/measure/training_flops.py`). Minutes are "
        "those of the steps; selection after the last epoch and calibration come on top.\n\n"
        + (TWO if two else "")
        + table(["training", "epochs", "split", *GOAL, "minutes of training", "PFLOP", "n", "goal"], body)
    )


def _both(rows: list[Row], run: str, split: str) -> list[Row]:
    """The rows of one network at both ends on a split; none where one is missing."""
    mine = [r for r in find(rows, run, None) if r["split"] == split and r["at"].get("robustness") in (0.0, 1.0)]
    found = ends(sorted(mine, key=lambda r: r["n"]))
    return [found[0.0], found[1.0]] if found else []


def _dedicated(rows: list[Row], split: str) -> list[Row]:
    """The rows of both dedicated networks on a split; none where one is missing."""
    every = [[r for r in find(rows, run, None) if r["split"] == split] for run in DEDICATED]
    return [max(mine, key=lambda r: r["n"]) for mine in every] if all(every) else []


def _reached(what: str, found: list[Row], flops: dict[str, float]) -> list[list[str]]:
    """The line of the rows at λ = 0 and 1; none without rows. The goal is one network, so two have no verdict."""
    if not found:
        return []
    standard, robust = found
    runs = {r["run"]: r["train"] for r in found}
    values = {
        "SA(0)": standard["clean_accuracy"],
        "SA(1)": robust["clean_accuracy"],
        "RA(1)": robust["robust_accuracy"],
    }
    short = [k for k, v in values.items() if 100 * v < GOAL[k]]
    seconds = sum(train["seconds"] for train in runs.values())
    verdict = "met" if not short and seconds <= 60 * MINUTES else "not met"
    epochs = " + ".join(str(train["epochs"]) for train in runs.values())
    cost = f"{sum(flops[run] for run in runs) / 1e15:.2f}" if all(run in flops for run in runs) else ""
    numbers = [*(per_cent(v) for v in values.values()), f"{seconds / 60:.0f}", cost, str(robust["n"])]
    return [[what, epochs, robust["split"], *numbers, verdict if len(runs) == 1 else ""]]


def ablation(rows: list[Row], results: Path) -> str:
    """What each change to the recipe does to SA and RA at the ends, paired with the base."""
    title = "## What the parts of the fast recipe gain (`benchmarks/queues/fast.toml`)\n\n"
    found = {name: ends(find(rows, name, "at-0")) for name in CHANGES}
    base = found[BASE]
    if not base:
        return title + "Not yet run.\n"
    body = []
    for name, what in CHANGES.items():
        mine = found[name]
        if not mine:
            continue
        values = [
            per_cent(mine[0.0]["clean_accuracy"]),
            per_cent(mine[1.0]["clean_accuracy"]),
            per_cent(mine[1.0]["robust_accuracy"]),
        ]
        moved = [""] * 3
        if name != BASE:
            moved = [
                signed(*paired(*(read_bits(results, of[at])[kind] for of in (mine, base))))
                for at, kind in ((0.0, 0), (1.0, 0), (1.0, 1))
            ]
        body.append([what, *values, *moved, f"{mine[1.0]['train']['seconds']:.0f}"])
    first = base[1.0]
    names = ("SA(0)", "SA(1)", "RA(1)")
    return (
        f"{title}Each row is one ResNet-20, trained with the base's options but one on {first['train']['images']} "
        f"images for {first['train']['epochs']} epochs, seed 0, in bf16. RA is the worst case of "
        f"{' and '.join(first['attack']['of'])} on {first['n']} images of calibrate-choose; differences are paired by "
        "image, with a 95 % interval that does not cover seeds. Other processes used the machine, so seconds compare "
        "only roughly.\n\n" + table(["change", *names, *(f"{n} minus none" for n in names), "training, s"], body)
    )
