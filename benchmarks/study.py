"""Sections of docs/results.md on the study: CIFAR-10, every dial against plain alternatives, options, ablation."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

from pages import cell, dial, find, per_cent, table

from rheostat.hypervolume import compared
from rheostat.intervals import paired
from rheostat.labels import worst_rows
from rheostat.rows import Row, read_bits

HERE = Path(__file__).parent
METHODS = {
    "mixing": "logit mixing", "dual": "dual", "oat": "OAT", "oats": "OATS, width 1", "float": "FLOAT",
    "float-slim": "FLOAT-slim, width 1", "floats-0.5": "FLOATS 0.5", "floats-0.3": "FLOATS 0.3",
    "floats-0.1": "FLOATS 0.1", "smart": "SMART 0.367",
}  # fmt: skip
# Runs of one data set and seed: what each method's run is called, and the most robust dedicated model.
FASHION_0 = {
    "mixing": "mixing-fashion", "dual": "dual-fashion", "oat": "oat-fashion", "oats": "oats-fashion",
    "float": "float-fashion", "float-slim": "float-slim-fashion", "floats-0.5": "floats-0.5",
    "floats-0.3": "floats-0.3", "floats-0.1": "floats-0.1", "smart": "smart-fashion-e10",
}  # fmt: skip
FASHION_1 = {"mixing": "mixing-s1", "dual": "dual-s1", "oat": "oat-s1", "float": "float-s1",
             "floats-0.3": "floats-0.3-s1", "smart": "smart-e10-s1"}  # fmt: skip
CIFAR = {m: f"c10-{m}" for m in METHODS}
GROUPS = {
    "Fashion-MNIST, seed 0": (FASHION_0, "pgd-at-1"),
    "Fashion-MNIST, seed 1": (FASHION_1, "pgd-at-1-s1"),
    "CIFAR-10 subset, seed 0": (CIFAR, "c10-pgd-at-1"),
}


def curves(rows: list[Row], run: str) -> dict[int, list[Row]]:
    """A run's eleven positions of the calibrated dial by `quick`, at full width, by number of images."""
    found: dict[int, list[Row]] = {}
    for r in dial(rows, run):
        if r["at"].get("width", 1.0) == 1.0:
            found.setdefault(r["n"], []).append(r)
    return {n: line for n, line in found.items() if len(line) == 11}


def curve(rows: list[Row], run: str) -> list[Row]:
    """The one of them over the most images, or none."""
    found = curves(rows, run)
    return found[max(found)] if found else []


def standard(rows: list[Row], run: str) -> Row | None:
    """A run's most robust end by `standard`."""
    found = find(rows, run, None, tier="standard")
    return next((r for r in found if r["at"].get("robustness", 1.0) == 1.0), None)


def cifar(rows: list[Row]) -> str:
    """The ends of every method on the subset of CIFAR-10."""
    body = []
    for level in ("0", "0.2", "0.5", "1"):
        for r in find(rows, f"c10-pgd-at-{level}", None):
            last = standard(rows, r["run"])
            body.append([f"dedicated λ = {level}", *cell(r), "", "", per_cent(last["robust_accuracy"]) if last else "",
                             f"{r['macs']['mean'] / 1e6:.1f} M", f"{r['params']:,}", f"{r['train']['seconds']:.0f}"])  # fmt: skip
    for method, name in METHODS.items():
        found = curve(rows, CIFAR[method])
        if not found:
            continue
        a, b, last = found[0], found[-1], standard(rows, CIFAR[method])
        body.append([name, *cell(a), *cell(b), per_cent(last["robust_accuracy"]) if last else "",
                     f"{b['macs']['mean'] / 1e6:.1f} M", f"{b['params']:,}", f"{b['train']['seconds']:.0f}"])  # fmt: skip
    if not body:
        return ""
    some = next(r for r in worst_rows(rows) if r["run"].startswith("c10-pgd-at-"))
    text = (
        f"## CIFAR-10 subset\n\n{some['train']['images']} training images, {some['train']['epochs']} epochs, "
        "ResNet-8 of width 16, PGD-2 in training, eps 8/255; PGD-20 on 1 000 test images, `standard` on 200. "
        "So short a training does not tell what these methods reach; it compares them on equal terms. "
        "SMART trains 10 epochs in halves.\n\n"
    )
    head = ["", "SA, t = 0", "RA, t = 0", "SA, t = 1", "RA, t = 1", "RA, t = 1, `standard`", "MACs at t = 1",
            "parameters", "training s (shared machine)"]  # fmt: skip
    return text + table(head, body)


def alternatives(rows: list[Row], results: Path) -> tuple[str, list[list[str]]]:
    """Every dial against `dual`, and against logit mixing at twice the compute and at the same."""
    body, claims = [], []
    for group, (runs, dedicated) in GROUPS.items():
        base = next(iter(find(rows, dedicated, None)), None)
        if base is None:
            continue
        reference = (base["clean_accuracy"] - 0.02, 0.0)
        bits = {
            m: {n: [read_bits(results, r) for r in line] for n, line in curves(rows, run).items()}
            for m, run in runs.items()
        }
        for method, mine in bits.items():
            if not mine:
                continue
            n = max(mine)
            mixed = bits["mixing"].get(n)
            others = {
                "dual": bits["dual"].get(n), "mixing, two passes": mixed,
                "mixing, one pass": mixed and [mixed[0], mixed[-1]],
            }  # fmt: skip
            line = [group, METHODS[method], str(n)]
            for name, other in others.items():
                if not other or name.startswith(method):
                    line.append("")
                    continue
                gap, low, high = (1e4 * v for v in compared(mine[n], other, reference))
                said = "better" if low > 0 else "worse" if high < 0 else "not told apart"
                line.append(f"{gap:+.0f} [{low:+.0f}, {high:+.0f}] {said}")
                if name != "mixing, two passes":
                    claims.append([f"{METHODS[method]} against {name}: {group}", f"{gap:+.0f} [{low:+.0f}, {high:+.0f}]", said])  # fmt: skip
            body.append(line)
    text = (
        "## Every dial against plain alternatives\n\nDifference of the area dominated in (SA, RA) above (SA of the "
        "dedicated model at λ = 1 less 2 points, 0), in square points, on the same images, paired bootstrap 95 %; "
        "eleven positions of the dial. Logit mixing holds a standard and a robust network: between its ends "
        "an image costs two passes; at equal MACs it has its two ends alone.\n\n"
    )
    head = ["", "method", "n", "less dual", "less logit mixing (twice the MACs)", "less logit mixing (equal MACs)"]  # fmt: skip
    return (text + table(head, body), claims) if body else ("", [])


def options(rows: list[Row], results: Path) -> str:
    """Training options, each against none, with dual and OAT."""
    names = {"plain": "none", "trades": "TRADES, β = 6", "average": "weight averaging, 0.99",
             "awp": "AWP, γ = 0.005", "smoothing": "label smoothing, 0.1"}  # fmt: skip
    body = []
    for method, option in itertools.product(("dual", "oat"), names):
        found = find(rows, f"c10-{method}-{option}", "at-0")
        base = find(rows, f"c10-{method}-plain", "at-0")
        if len(found) < 2 or len(base) < 2:
            continue
        gaps = []
        for i, kind in ((0, 0), (1, 0), (1, 1)):
            gap = paired(read_bits(results, found[i])[kind], read_bits(results, base[i])[kind])
            gaps.append("" if option == "plain" else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in gap)))  # fmt: skip
        body.append([method, names[option], cell(found[0])[0], cell(found[1])[0], cell(found[1])[1], *gaps,
                     f"{found[0]['train']['seconds']:.0f}"])  # fmt: skip
    if not body:
        return ""
    head = [
        "",
        "option",
        "SA(0)",
        "SA(1)",
        "RA(1)",
        "SA(0) less none's",
        "SA(1)",
        "RA(1)",
        "training s",
    ]
    return (
        "## Training options (CIFAR-10 subset)\n\n5 000 images, 8 epochs, seed 0, one run each; PGD-20 on 1 000 test "
        "images. All are off by default.\n\n" + table(head, body)
    )  # fmt: skip


def ablation(rows: list[Row]) -> str:
    """OAT's own ablation: norm sets × encoding × start of FiLM."""
    body = []
    for sets, encoding, start in itertools.product(
        ("dual", "single"), ("cosine", "scalar", "orthogonal"), ("identity", "paper")
    ):
        found = find(rows, f"oat-{sets}-{encoding}-{start}", "at-0")
        if found:
            body.append([sets, encoding, "ours" if start == "identity" else "the paper's", *(
                f"{per_cent(r['clean_accuracy'])} / {per_cent(r['robust_accuracy'])}" for r in found)])  # fmt: skip
    if not body:
        return ""
    levels = [f"λ = {r['at']['robustness']:g}" for r in found]
    return (
        "## OAT's ablation\n\nFashion-MNIST, 5 000 images, 5 epochs, seed 0, PGD-20 on 500 test images, SA / RA "
        '(an interval is about ± 4 points), rule "at-0".\n\n'
        + table(["norm sets", "encoding of λ", "FiLM", *levels], body)
    )


def papers(rows: list[Row]) -> str:
    """What of the papers' own settings has run."""
    body = []
    for file in sorted((HERE / "paper").glob("*.toml")):
        for run in tomllib.loads(file.read_text())["run"]:
            found = [r for r in worst_rows(rows) if r["run"] == run["name"]]
            state = f"{len(found)} points" if found else "not yet run"
            body.append([f"`benchmarks/paper/{file.name}`", run["name"], run["recipe"], state])
    return (
        "## The papers' own settings\n\nEach needs a CUDA machine; one command continues where the last ended.\n\n"
        + table(["queue", "run", "recipe", ""], body)
    )


def surprises(rows: list[Row], believed: list[Row], alphas: list[Row], exits: list[Row],
              compared_with: list[list[str]]) -> str:  # fmt: skip
    """What we did not expect, each sentence with its rows' figures."""
    said = []
    gaps = {}
    for r in believed:
        if r["tier"] == "standard" and r["attack"]["name"] in ("pgd20", "worst"):
            gaps.setdefault((r["run"], r["at"]["robustness"]), {})[r["attack"]["name"]] = r["robust_accuracy"]  # fmt: skip
    shown = [
        f"{run} at λ = {at:g}: {100 * g['pgd20']:.1f} → {100 * g['worst']:.1f}"
        for (run, at), g in gaps.items() if len(g) == 2
    ]  # fmt: skip
    if shown:
        said.append(
            "**PGD-20 flatters, and most between the ends.** `quick` against `standard` on the same images: "
            + "; ".join(shown) + ". Curves here are by `quick` unless they say otherwise."
        )  # fmt: skip
    versus = [line for line in compared_with if line[0].startswith("FLOAT against dual")]
    if versus and alphas:
        least, most = min(min(r["value"]) for r in alphas), max(max(r["value"]) for r in alphas)
        said.append(
            "**Noise on the weights did not buy a better dial than the dual norm it comes with.** "
            + "; ".join(f"{a.partition(': ')[2]}: {b} square points, {c}" for a, b, c in versus)
            + f". The learned α stay between {least:.2f} and {most:.2f}; where FLOAT is cheap, `dual` is as cheap."
        )  # fmt: skip
    masks = {"learned": [], "random": []}
    for r in worst_rows(rows):
        kind = r["run"].split("-")[1] if r["run"].startswith("mask-") else ""
        if kind in masks and r["at"]["robustness"] == 1.0:
            masks[kind].append(100 * r["robust_accuracy"])
    if all(masks.values()):
        learned, random = (sum(v) / len(v) for v in masks.values())
        said.append(
            f"**Learned masks did not beat random ones** in {len(masks['learned'])} pairs of short runs: RA(1) "
            f"{learned:.1f} on average against {random:.1f}. Six epochs are five changes of mask; nothing is said of long training."
        )  # fmt: skip
    slow = {r["name"]: r["ratio"]["median"] for r in exits if r["batch"] == 256}
    for name, ratio in slow.items():
        found = [r for r in worst_rows(rows) if r["run"] == name and r["at"].get("exit") == 1.0]
        row = max(found, key=lambda r: (r["n"], len(r["attack"]["of"])), default=None)
        if row is not None:
            said.append(
                f"**MACs saved are not time saved** ({name}): {100 * (1 - row['macs']['mean'] / row['macs_static']):.0f} % of "
                f"the MACs, {100 * (1 - ratio):.0f} % of the time of a batch of 256. The layers that every row passes are "
                "those of large maps and few channels, dear for their MACs, and each exit adds small operators."
            )  # fmt: skip
    return "## What surprised us\n\n" + "\n".join(f"- {s}" for s in said) + "\n" if said else ""
