"""docs/which.md: which method for which need, its figures taken from the rows."""

from __future__ import annotations

from pathlib import Path

from groups import GROUPS, METHODS, TWICE, Group, curve, reference, steps
from markdown import cell, dial, find, per_cent, table
from plain import Row, read_rows_plain

from rheostat.results.areas import hypervolume

FASHION = {  # what a method's run on Fashion-MNIST, seed 0, is called
    "pgd-at": "pgd-at-1",
    "mixing": "mixing-fashion",
    "dual": "dual-fashion-e12",
    "oat": "oat-b64",
    "float": "float-fashion-e12",
    "floats": "floats-0.3-e12",
    "smart": "smart-e12",
    "oats": "oats-fashion",
    "rdi": "rdi-fashion",
    "rdi-slim-dual": "three-dials",
}
CIFAR = {
    "pgd-at": "c10-pgd-at-1",
    "mixing": "c10-mixing",
    "dual": "c10-dual-e12",
    "oat": "c10-oat-b64",
    "float": "c10-float-e12",
    "floats": "c10-floats-0.3-e12",
    "smart": "c10-smart-e12",
    "oats": "c10-oats",
    "rdi": "c10-rdi",
    "rdi-slim-dual": "c10-three-dials",
}
NEEDS = {
    "pgd-at": "one trade-off, decided before training",
    "mixing": "a dial from two networks that you already have, at twice the compute between its ends",
    "dual": "a dial for the price of a second set of norms; the simplest thing that works",
    "oat": "a network told λ itself, trained at many of them and not at the two ends alone",
    "float": "a dial for hardly any parameters, gone once folded",
    "floats": "the same in a third of the weights; `structure=channel` for time and not storage alone",
    "smart": "few non-zeros per path: two sparse networks in one tensor",
    "oats": "robustness and a latency budget that both change at run time",
    "rdi": "easy images to cost less than hard ones, with no dial of robustness",
    "rdi-slim-dual": "all three at once: robustness, width, and early exit",
}
HALVES = ("dual", "float", "floats", "smart")
EPOCHS = 6


def ends(rows: list[Row], run: str) -> list[str]:
    """SA at the clean end, SA / RA in the middle, RA at the robust end; one point where there is no dial."""
    full = [r for r in dial(rows, run) if r["at"].get("width", 1.0) == 1.0 and not r["at"].get("exit")]
    if full:
        middle = next((r for r in full if r["at"]["robustness"] == 0.5), None)
        half = [per_cent(middle[k]) for k in ("clean_accuracy", "robust_accuracy")] if middle else []
        return [cell(full[0])[0], " / ".join(half), cell(full[-1])[1]]
    alone = [r for r in find(rows, run, None) if r["at"].get("exit", 1.0) == 1.0]
    if not alone:
        return ["not yet run", "", ""]
    most = max(r["n"] for r in alone)
    clean, robust = cell(min((r for r in alone if r["n"] == most), key=lambda r: r["robust_accuracy"]))
    return [clean, "", robust]


def widest(rows: list[Row], group: Group) -> str:
    """Which methods' dials dominate the largest area, at about equal training time, largest first."""
    above = reference(rows, group)
    if above is None:
        return ""
    named = {METHODS["oat"]: group.runs["oat"]} | {TWICE[m]: r for m, r in group.twice.items()}
    areas = {}
    for name, run in named.items():
        if line := curve(rows, run):
            points = [(r["clean_accuracy"], r["robust_accuracy"]) for r in line]
            areas[name] = 1e4 * hypervolume(points, above)
    ranked = sorted(areas, key=lambda name: -areas[name])
    return f"{group.name}: " + ", ".join(f"{name} {areas[name]:.0f}" for name in ranked)


def page(rows: list[Row], results: Path) -> str:
    """The whole page."""
    took_step = steps(read_rows_plain(results / "speed.jsonl")) | {"pgd-at": 1.0}
    dense = find(rows, "pgd-at-1", None)[0]["params"]
    costs, measured = [], []
    for method, text in NEEDS.items():
        run = FASHION[method]
        some = next(iter(dial(rows, run) or find(rows, run, None)), None)
        epochs = some["train"]["epochs"] if some else 0
        params = f"{some['params'] / dense:.2f}" if some and method != "rdi" else ""
        took = f"{took_step[method] * epochs / EPOCHS:.2f}" if method in took_step and epochs else ""
        costs.append([text, f"`{method}`", str(epochs or ""), took, params])
        measured.append([f"`{method}`", *ends(rows, run), *ends(rows, CIFAR[method])])
    measured_head = [
        "",
        "Fashion-MNIST: SA, clean end",
        "SA / RA, middle",
        "RA, robust end",
        "CIFAR-10 subset: SA, clean end",
        "SA / RA, middle",
        "RA, robust end",
    ]
    compared = "; ".join(filter(None, (widest(rows, g) for g in GROUPS)))
    return "\n".join(
        [
            "# Which method for which need\n",
            "Written by `python benchmarks/pages/build.py`; every figure is from the rows behind "
            "[results](results.md).\n",
            table(["you need", "take", "epochs", "training time ÷ PGD-AT's", "parameters ÷ plain"], costs),
            "Epochs are those of the runs below: a method that trains in halves ("
            + ", ".join(f"`{m}`" for m in HALVES)
            + f") attacks half of each batch, and has twice `oat`'s {EPOCHS}, so that all saw as many attacked images; "
            "`oat` has batches of half the size, so that they took as many steps. "
            "Time is the step that `make bench` measures on a narrow ResNet-8 (`rdi`: without the deeper net of its "
            "run), times epochs.\n",
            table(measured_head, measured),
            "10 000 training images, a narrow ResNet-8 (`rdi`: ResNet-20, its worst case over every form of attack at "
            "exit 1), seed 0, PGD-20 made white-box at the very point. What such figures are worth: they order methods "
            "trained alike and briefly, and say nothing of what long training reaches.\n",
            f"Area under the dial, square points, at about equal training time: {compared}. Intervals and every pair: "
            "[the study](appendix/study.md#at-equal-numbers-of-attacked-images).\n",
            "![dials](study.png)\n",
            "## How to read it\n",
            "- **SA** is standard accuracy, **RA** robust accuracy: the share of images that no attack that was run "
            "turned. It is an upper bound.\n"
            "- The **clean end** is the dial at 0, the **robust end** at 1. A method without a dial has one point.\n",
            "## Three questions that decide\n",
            "1. *Is the trade known before training, and final?* Then `pgd-at` at that λ: no method here "
            "is meant to beat a network trained for one point, only to be all of them at once.\n"
            "2. *What changes at run time?* Robustness alone: `dual` first, then `float` or `oat` if they measure "
            "better on your data at the training time you have. Compute as well: `oats` "
            "(chosen per deployment or by load) or exits (chosen by each image). Both: `rdi-slim-dual`.\n"
            "3. *What is scarce?* Training time: `dual` or `float`. Storage: `floats`, `smart`. Latency: widths, or "
            "masks by channel; unstructured zeros save storage, not time.\n",
            "Whatever is taken, `rheostat choose` decides the operating point on images of its own, and "
            "`rheostat evaluate --tier standard` says what PGD-20 flattered "
            "([what it hid here](appendix/study.md#the-robust-end-under-stronger-attacks); "
            "[evaluation](evaluation.md)).\n",
        ]
    )
