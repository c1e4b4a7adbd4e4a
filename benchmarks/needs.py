"""docs/which.md: which method for which need, its figures taken from the rows."""

from __future__ import annotations

from pathlib import Path

from pages import cell, dial, find, per_cent, table

from rheostat.rows import Row, read_rows

FASHION = {  # what a method's run on Fashion-MNIST, seed 0, is called
    "pgd-at": "pgd-at-1", "mixing": "mixing-fashion", "dual": "dual-fashion", "oat": "oat-fashion",
    "float": "float-fashion", "floats": "floats-0.3", "smart": "smart-fashion-e10",
    "oats": "oats-fashion", "rdi": "rdi-fashion", "rdi-slim-dual": "three-dials",
}  # fmt: skip
SOURCES = {
    "pgd-at": "one trade-off, decided before training",
    "mixing": "a dial from two networks that you already have, at twice the compute between its ends",
    "dual": "a dial for the price of a second set of norms; the simplest thing that works",
    "oat": "the best measured dial over its whole range, at the dearest step of a single-width net",
    "float": "a dial for hardly any parameters, gone once folded, and one of the cheapest steps",
    "floats": "the same in a third of the weights; `structure=channel` for time and not storage alone",
    "smart": "two ends that matter and little between: few non-zeros per path, a standard end left whole",
    "oats": "robustness and a latency budget that both change at run time",
    "rdi": "easy images to cost less than hard ones, with no dial of robustness",
    "rdi-slim-dual": "all three at once: robustness, width, and early exit",
}


def ends(rows: list[Row], run: str) -> list[str]:
    """SA at the clean end, RA at the robust one, as cells."""
    found = dial(rows, run) or find(rows, run, "at-0")
    full = [
        r for r in found
        if r["at"].get("width", 1.0) == 1.0 and not r["at"].get("exit")
    ]  # fmt: skip
    if full:
        return [cell(full[0])[0], cell(full[-1])[1]]
    alone = [r for r in find(rows, run, None) if r["at"].get("exit", 1.0) == 1.0]
    return list(cell(min(alone, key=lambda r: r["robust_accuracy"]))) if alone else ["", ""]


def between(rows: list[Row], run: str) -> str:
    """SA / RA at the middle of the dial."""
    middle = [
        r for r in dial(rows, run)
        if r["at"]["robustness"] == 0.5 and r["at"].get("width", 1.0) == 1.0 and not r["at"].get("exit")
    ]  # fmt: skip
    return "" if not middle else (
        f"{per_cent(middle[0]['clean_accuracy'])} / {per_cent(middle[0]['robust_accuracy'])}"
    )  # fmt: skip


def steps(speed: list[Row]) -> dict[str, str]:
    """Time of a training step over PGD-AT's."""
    found = {r["a"]: f"{r['ratio']['median']:.2f}" for r in speed if "every step" in r["name"]}
    return found | {"pgd-at": "1"}


def page(rows: list[Row], results: Path) -> str:
    """The whole page."""
    speed = read_rows(results / "speed.jsonl")
    dense = next((r["params"] for r in find(rows, "pgd-at-1", None)), None)
    took = steps(speed)
    body = []
    for method, text in SOURCES.items():
        run = FASHION[method]
        some = next(iter(dial(rows, run) or find(rows, run, None) or find(rows, run, "at-0")), None)
        own = some is not None and method != "rdi" and dense is not None
        body.append([
            text, f"`{method}`", *ends(rows, run), between(rows, run), took.get(method, ""),
            f"{some['params'] / dense:.2f}" if own and some else "",
        ])  # fmt: skip
    head = ["you need", "take", "SA, clean end", "RA, robust end", "SA / RA, middle of the dial",
            "training step ÷ PGD-AT's", "parameters ÷ plain"]  # fmt: skip
    return "\n".join(
        [
            "# Which method for which need\n",
            "Written by `python benchmarks/tables.py`; every figure is from the rows behind [results](results.md). "
            "Fashion-MNIST, 10 000 training images, a narrow ResNet-8 (`rdi`: ResNet-20, its worst case over every "
            "form of attack at exit 1), seed 0, PGD-20 made white-box at the very point. What such figures are worth: "
            "they order methods trained alike and briefly, and say nothing of what long training reaches.\n",
            table(head, body),
            "## How to read it\n",
            "- **SA** is standard accuracy, **RA** robust accuracy: the share of images that no attack that was run "
            "turned. It is an upper bound.\n"
            "- The **clean end** is the dial at 0, the **robust end** at 1. A method without a dial has one point.\n"
            "- A **step** is one training step; `float`, `dual`, `smart` and `floats` train half of each batch clean and "
            "half attacked, so an epoch of theirs sees half as many attacked images as one of `oat` or `pgd-at`.\n",
            "## Three questions that decide\n",
            "1. *Is the trade known before training, and final?* Then `pgd-at` at that λ: no method here "
            "is meant to beat a network trained for one point, only to be all of them at once.\n"
            "2. *What changes at run time?* Robustness alone: `dual`, `float` or `oat`. Compute as well: `oats` "
            "(chosen per deployment or by load) or exits (chosen by each image). Both: `rdi-slim-dual`.\n"
            "3. *What is scarce?* Training time: `float` or `dual`. Storage: `floats`, `smart`. Latency: widths, or "
            "masks by channel; zeros that are strewn about save none.\n",
            "Whatever is taken, `rheostat choose` decides the operating point on images of its own, and "
            "`rheostat evaluate --tier standard` says what PGD-20 flattered: on several dials it flattered the "
            "middle most ([evaluation](evaluation.md)).\n",
        ]
    )
