"""docs/results.md: what was asked, what came out and what surprised us, in one short page made from the rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import surprises
from claims import Lines
from groups import GROUPS, METHODS, TWICE, curve, steps
from markdown import cell, per_cent, table
from plain import Row
from study import standard

CIFAR = next(g for g in GROUPS if g.name == "CIFAR-10 subset, seed 0")
NAMES = {"OAT and OATS": "oat", "FLOAT and FLOATS": "float", "SMART": "smart", "RDI-Nets": "rdi"}
"""How the headings of the papers' claims begin, and the composition whose page tells more."""
ABOUT: dict[str, tuple[tuple[int, int], str]] = {
    "oat": (
        (6, 4),
        "One OAT network keeps up with a network trained for each λ on both data sets. It loses where time is counted: "
        "widths and training steps cost more than their operations predict.",
    ),
    "float": (
        (15, 10),
        "FLOAT's costs are as claimed: few parameters, no latency once folded, a step far cheaper than OAT's. Its "
        "accuracy above OAT's shows only with twice the epochs, and there partly because of the additional updates.",
    ),
    "smart": (
        (4, 0),
        "The sparsity at OAT's trade-off holds on both data sets and seeds, with ten epochs instead of six.",
    ),
    "rdi": (
        (1, 4),
        "Exits save the operations that the paper claims. Accuracy and robustness not lower hold on MNIST alone, and "
        "the operations saved are not time saved on a CPU.",
    ),
}
"""By composition: what decided, and the verdicts (met, not met) that it was written for; left out where they change."""


@dataclass(frozen=True)
class Found:
    """What the rows gave: all rows, where they lie, claims by section, comparisons, and rows of other files."""

    rows: list[Row]
    folder: Path
    sections: dict[str, Lines]
    alternatives: Lines
    equal: Lines
    read: dict[str, list[Row]]


def count(lines: Lines, verdict: str) -> int:
    """How many lines have a verdict."""
    return sum(line[2].partition(":")[0] == verdict for line in lines)


def papers(found: Found) -> list[tuple[str, str, Lines]]:
    """(heading, composition, claims) of each paper."""
    return [
        (heading, method, lines)
        for heading, lines in found.sections.items()
        for start, method in NAMES.items()
        if heading.startswith(start + " (")
    ]


def verdicts(found: Found) -> str:
    """A table: per paper and for our own bars, how many claims are met, not met, not yet run."""
    body = [
        [heading, *(str(count(lines, v)) for v in ("met", "not met", "not significantly different", "not yet run"))]
        for heading, lines in found.sections.items()
    ]
    return table(["", "met", "not met", "not significantly different", "not yet run"], body)


def ends(found: Found) -> str:
    """A table: both ends of every dial on the CIFAR-10 subset, at about equal numbers of attacked images."""
    took, body = steps(found.read["speed"]), []
    runs = {"dual, 6 epochs": ("dual", CIFAR.runs["dual"]), "OAT, 6 epochs": ("oat", CIFAR.runs["oat"])}
    runs |= {TWICE[m]: (m.partition("-")[0], run) for m, run in CIFAR.twice.items()}
    runs |= {METHODS["mixing"]: ("mixing", CIFAR.runs["mixing"])}
    for name, (method, run) in runs.items():
        if line := curve(found.rows, run):
            last = standard(found.rows, run)
            strong = f"{per_cent(last['robust_accuracy'])} ({last['n']})" if last else ""
            times = f"{took[method] * line[0]['train']['epochs'] / 6:.1f}" if method in took else ""
            body.append([name, cell(line[0])[0], cell(line[-1])[1], strong, str(line[0]["n"]), times])
    head = ["", "SA, t = 0", "RA, t = 1, PGD-20", "RA, t = 1, `standard` (n)", "n", "training time ÷ adversarial"]
    return table(head, body)


def page(found: Found, appendices: str) -> str:
    """The whole page."""
    counted = [line for lines in found.sections.values() for line in lines]
    short, longer = (curve(found.rows, run["dual"])[0] for run in (CIFAR.runs, CIFAR.twice))
    epochs = f"{short['train']['epochs']} or {longer['train']['epochs']}"
    data = f"{short['train']['images']:,}".replace(",", " ")
    parts = [
        "# Results\n",
        "Written by `python benchmarks/pages/build.py` from the rows in `benchmarks/results/`; no figure here was "
        "typed. SA is standard accuracy, RA robust accuracy, t the position of the dial ([glossary](glossary.md)); "
        "brackets are 95 % intervals.\n",
        "## What was asked\n",
        "Four papers claim that one network can replace several: trained once, it offers many balances of accuracy "
        "and robustness, and some of them also trade compute. We asked three questions of each: does the claim hold "
        "at a scale that two CPU cores can train; is the method better than what a user would do without it; and "
        "does the answer survive a stronger attack? The settings of the papers themselves need a GPU and have not "
        "run: [what has and has not](appendix/deployment.md#the-papers-own-settings).\n",
        f"Training was short on purpose: {data} images, {epochs} epochs, a narrow ResNet-8, on Fashion-MNIST and "
        "CIFAR-10, two seeds. Such figures order methods that were trained alike. They do not say what long training "
        "reaches.\n",
        "## What came out\n",
        "".join(f"{n}. {sentence}\n" for n, sentence in enumerate(sentences(found, ""), 1)),
        "![One dial](trade_off.png)\n",
        f"*{CIFAR.name}, {', '.join(longer['attack']['of'])} (tier `{longer['tier']}`) at the very point, "
        f"{longer['n']} images of the `{longer['split']}` split.*\n",
        f"Both ends of the dial, same data, split and seed. Rows with {longer['train']['epochs']} epochs, and OAT with "
        "smaller batches, made as many updates on about as many attacked images:\n",
        ends(found),
        "## Paper by paper\n",
        f"{len(counted)} claims and bars in all ([every one](appendix/claims.md)):\n",
        verdicts(found),
    ]
    parts += [
        f"**[{heading}](methods/{method}.md).** {count(lines, 'met')} of {len(lines)} met, {count(lines, 'not met')} "
        f"not met, {count(lines, 'not yet run')} not yet run. {_decided(method, lines)}\n"
        for heading, method, lines in papers(found)
    ]
    parts += [
        "## What surprised us\n",
        "".join(f"- {text}\n" for text in surprising(found)),
        "The figures behind each: [claims](appendix/claims.md#what-surprised-us).\n",
        "## What these figures do not say\n",
        "- RA is an upper bound: a stronger attack can only lower it. Rows of tier `quick` are under PGD-20 alone; "
        "[what stronger attacks found](appendix/study.md#the-robust-end-under-stronger-attacks).\n"
        "- One training run per cell and seed. Intervals are over test images, and cover no variation of training.\n"
        "- Nothing was chosen on the test split. Dials were calibrated on images held out of training.\n",
        "## Appendices\n",
        appendices,
        "Short answers to *which method should I take*: [which method for which need](which.md). Each method has "
        "[a page of its own](methods/index.md).\n",
    ]
    return "\n".join(parts)


def sentences(found: Found, to: str) -> list[str]:
    """The results in five sentences; links are relative to `docs/`, which is `to`."""
    oat = next(lines for heading, method, lines in papers(found) if method == "oat")
    matched = [line for line in oat if line[0].startswith("mean of SA and RA") and line[2] != "not yet run"]
    equal = [line for line in found.alternatives if "equal MACs" in line[0]]
    later = [line for line in found.equal if "against OAT" in line[0] and not line[0].startswith("OAT")]
    doubled = [line for line in found.alternatives if "twice the MACs" in line[0]]
    less = sum(line[2] == "worse" for line in later)
    return [
        f"One OAT network matches a network trained for each balance in {count(matched, 'met')} of {len(matched)} "
        f"comparisons ([claims]({to}appendix/claims.md)).",
        f"At equal compute, a dial beats switching between two networks in {count(equal, 'better')} of {len(equal)} "
        f"comparisons; it {'rarely' if 2 * count(doubled, 'better') < len(doubled) else 'often'} beats mixing two "
        f"networks at twice the compute ([study]({to}appendix/study.md#every-dial-against-plain-alternatives)).",
        "A second set of norms (`dual`) already makes a good dial, and richer conditioning adds little to it: FLOAT, "
        f"trained as long, is better in {_against_dual(found)} comparisons "
        f"([study]({to}appendix/study.md#at-equal-numbers-of-attacked-images)).",
        f"OAT leads at equal epochs because each of its steps costs more: given equal numbers of attacked images, "
        f"{len(later) - less} of {len(later)} rivals are no longer behind it "
        f"([study]({to}appendix/study.md#at-equal-numbers-of-attacked-images)).",
        f"Early exit saves more operations than time: at most {_most(found, 'of MACs saved')} % of the operations, and "
        f"{_most(found, 'latency saved')} % of the latency of a large batch "
        f"([exits]({to}appendix/exits.md#latency-of-real-early-exit-clean-test-images)).",
    ]


def five_sentences(found: Found) -> str:
    """The same as a list for README.md."""
    return "".join(f"- {sentence}\n" for sentence in sentences(found, "docs/"))


def _decided(method: str, lines: Lines) -> str:
    verdicts, text = ABOUT[method]
    return text if verdicts == (count(lines, "met"), count(lines, "not met")) else ""


def _against_dual(found: Found) -> str:
    lines = [x for x in found.equal if x[0].startswith("FLOAT, 12 epochs, against dual")]
    return f"{count(lines, 'better')} of {len(lines)}"


def _most(found: Found, claim: str) -> int:
    """The largest percentage among the measured claims on exits that hold this text."""
    lines = [line for line in found.sections["RDI-Nets (Hu et al., ICLR 2020)"] if claim in line[0] and line[1]]
    return max(int(line[1].partition(" ")[0]) for line in lines)


def surprising(found: Found) -> list[str]:
    """The first sentence of each surprise, which says what it is; figures are in the appendix."""
    said = (
        surprises.time(found.equal),
        surprises.two_networks(found.alternatives),
        surprises.noise(found.alternatives + found.equal, found.read["alphas"]),
        surprises.pgd20(found.read["believe"]),
        surprises.masks(found.rows),
        surprises.latency(found.rows, found.read["exit-latency"]),
        surprises.widths(found.read["speed"]),
    )
    return [text.split("**")[1].rstrip(".:") + "." for text in said if text]
