"""docs/which.md: which method for which need, with figures from the rows."""

from __future__ import annotations

from pathlib import Path

import verdict
from groups import GROUPS, METHODS, TWICE, Group, curve, reference, steps
from markdown import cell, dial, find, per_cent, table
from plain import Row, read_rows_plain

from rheostat.results.areas import hypervolume

FASHION = {  # the name of each method's run on Fashion-MNIST, seed 0
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
    "pgd-at": "one trade-off, fixed before training",
    "mixing": "a dial from two networks that you already have, at two passes per image between its ends",
    "dual": "the simplest dial, for the price of a second set of norms",
    "oat": "a network that takes λ as an input and is trained at many values of λ",
    "float": "a dial with hardly any parameters and no overhead once folded",
    "floats": "FLOAT in a third of the weights; `structure=channel` saves time as well as storage",
    "smart": "few non-zero weights per path: two sparse networks in one tensor",
    "oats": "robustness and a latency budget that both change at run time",
    "rdi": "easy images that cost less than hard ones, without a dial of robustness",
    "rdi-slim-dual": "robustness, width and early exit, all at run time",
}
SHORTER = {"floats": ("floats-0.3", "c10-floats-0.3")}
"""Runs of fewer epochs, on Fashion-MNIST and CIFAR-10: shown here until those above have run, and in docs/methods."""
MORE = {
    "float-slim": ("float-slim-fashion", "c10-float-slim"),
    "line": ("rival-fmnist-line-re-estimated", "rival-c10-line-re-estimated"),
    "lora": ("rival-fmnist-lora", "rival-c10-lora"),
    "mixednuts": ("rival-fmnist-mixednuts", "rival-c10-mixednuts"),
}
"""Methods that this page does not compare: their runs on Fashion-MNIST and on CIFAR-10."""
HALVES = ("dual", "float", "floats", "smart")
EPOCHS = 6


def ran(rows: list[Row], method: str, data: int) -> str:
    """The name of a method's run on Fashion-MNIST (0) or CIFAR-10 (1); a shorter run until the one above has run."""
    if method in MORE:
        return MORE[method][data]
    name = (FASHION, CIFAR)[data][method]
    known = any(row["run"] == name for row in rows)
    return name if known or method not in SHORTER else SHORTER[method][data]


def relative_time(method: str, epochs: int, took: dict[str, float]) -> float | None:
    """Training time on as many attacked images as adversarial training has, relative to its own; None if not measured.

    A method that trains in halves needs twice the epochs, also where the run that is shown is shorter.
    """
    step = took.get(method)
    return None if step is None else step * (2 * EPOCHS if method in HALVES else epochs) / EPOCHS


def ends(rows: list[Row], run: str) -> list[str]:
    """SA at the clean end, SA / RA in the middle, RA at the robust end; one point if there is no dial."""
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


def areas(rows: list[Row], group: Group) -> dict[str, str]:
    """The area under each method's dial in square points, at about equal training time."""
    above = reference(rows, group)
    if above is None:
        return {}
    named = {METHODS["oat"]: group.runs["oat"]} | {TWICE[m]: r for m, r in group.twice.items()}
    found = {}
    for name, run in named.items():
        if line := curve(rows, run):
            points = [(r["clean_accuracy"], r["robust_accuracy"]) for r in line]
            found[name] = f"{1e4 * hypervolume(points, above):.0f}"
    return found


def rivals_text(found: dict[str, list[verdict.Line]]) -> list[str]:
    """What simple rivals reach at equal attacked images; nothing before they have run."""
    if not found:
        return []
    said = "".join(f"- {sentence}\n" for sentence in verdict.sentences(found))
    return [
        "## Simple rivals\n",
        "Weights on a straight line between two ends (`line`), low-rank adapters (`lora`), two networks whose logits "
        "(`mixing`) or probabilities (`mixednuts`) are mixed at twice the compute: areas under the dial at equal "
        "numbers of attacked images, in square points, as the mean over the seeds that have run "
        "([every run](appendix/methods.md#rivals-at-equal-attacked-images)).\n",
        said,
        f"{verdict.CAUTION}\n",
    ]


def page(rows: list[Row], rivals: dict[str, list[verdict.Line]], results: Path) -> str:
    """The whole page."""
    took_step = steps(read_rows_plain(results / "speed.jsonl")) | {"pgd-at": 1.0}
    dense = find(rows, "pgd-at-1", None)[0]["params"]
    costs, measured, short = [], [], []
    for method, text in NEEDS.items():
        run, other = (ran(rows, method, i) for i in (0, 1))
        some = next(iter(dial(rows, run) or find(rows, run, None)), None)
        epochs = some["train"]["epochs"] if some else 0
        if method in SHORTER and run != FASHION[method]:
            short.append((method, epochs))
        params = f"{some['params'] / dense:.2f}" if some and method != "rdi" else ""
        time = relative_time(method, epochs, took_step) if epochs else None
        costs.append([text, f"`{method}`", str(epochs or ""), "" if time is None else f"{time:.2f}", params])
        measured.append([f"`{method}`", *ends(rows, run), *ends(rows, other)])
    measured_head = [
        "",
        "Fashion-MNIST: SA, clean end",
        "SA / RA, middle",
        "RA, robust end",
        "CIFAR-10 subset: SA, clean end",
        "SA / RA, middle",
        "RA, robust end",
    ]
    compared = {g.name: areas(rows, g) for g in GROUPS}
    names = dict.fromkeys(name for found in compared.values() for name in found)
    under = [[name, *(found.get(name, "not yet run") for found in compared.values())] for name in names]
    return "\n".join(
        [
            "# Which method for which need\n",
            "This page is generated by `python benchmarks/pages/build.py`; every figure is from the rows behind "
            "[results](results.md).\n",
            table(["you need", "take", "epochs", "training time ÷ PGD-AT's", "parameters ÷ plain"], costs),
            "The epochs are those of the runs below. A method that trains in halves ("
            + ", ".join(f"`{m}`" for m in HALVES)
            + f") attacks half of each batch. It has twice the {EPOCHS} epochs of `oat`, so that it sees as many "
            "attacked images. `oat` has batches of half the size, so that it makes as many updates. Training time is "
            "the time of a step, which `make bench` measures on a narrow ResNet-8, times the epochs; that of `rdi` "
            "leaves out the deeper network of its run."
            + "".join(
                f" The accuracies of `{m}` are from {n} epochs; {2 * EPOCHS}, for which its time is given, have not "
                "run yet."
                for m, n in short
            )
            + "\n",
            table(measured_head, measured),
            "Each network but that of `rdi` is a narrow ResNet-8; all were trained on 10 000 images with seed 0. RA is "
            "measured under white-box PGD-20 made at the scored point. `rdi` is a ResNet-20 at exit = 1, and its RA "
            "is the worst case over all forms of attack. These figures order methods that were trained alike for a "
            "short time. They say nothing about the results of long training.\n",
            "Area under the dial in square points, at about equal training time; larger is better:\n",
            table(["", *compared], under),
            "[The study](appendix/study.md#at-equal-numbers-of-attacked-images) has intervals and paired "
            "comparisons.\n",
            "![Every dial of the study](study.png)\n",
            *rivals_text(rivals),
            "## How to read it\n",
            "- **SA** is standard accuracy. **RA** is robust accuracy: the share of images that are still classified "
            "correctly after all attacks that were run. A stronger attack can only lower it.\n"
            "- The **clean end** is the dial at 0, the **robust end** at 1. A method without a dial has one point.\n",
            "## Three questions that decide\n",
            "1. *Is the trade-off known before training, and final?* Then train that network: `rheostat train "
            "pgd-at-fashion --set method.robustness=0.5` (λ = 0.5; 1 is adversarial training). No method here is "
            "meant to beat a network trained for one point; a dial offers all points in one network.\n"
            "2. *What changes at run time?* If only robustness changes, take `dual` first, then `float` or `oat` if "
            "they are better on your data at your training time. If compute changes as well, take `oats` (the width is "
            "set per deployment or by load) or exits (each image decides); `rdi-slim-dual` has both.\n"
            "3. *What is scarce?* Training time: `mixing`, then `dual` or `oat` (the first table). Storage: "
            "`floats` or `smart`. Latency: widths, or masks by channel; unstructured zeros save storage but no time.\n",
            "Whichever you take, `rheostat choose` selects the operating point on images of its own, and `rheostat "
            "evaluate --tier standard` shows how far PGD-20 overestimates RA "
            "([figures](appendix/study.md#the-robust-end-under-stronger-attacks); [evaluation](evaluation.md)).\n",
        ]
    )
