"""Surprises: a section of docs/appendix/claims.md, in which each sentence appears only if its rows support it."""

from __future__ import annotations

from plain import Row, worst_rows

Lines = list[list[str]]
EQUAL = "study.md#at-equal-numbers-of-attacked-images"
PLAIN = "study.md#every-dial-against-plain-alternatives"
"""The sections of docs/appendix with the figures of comparisons."""


def counted(lines: Lines) -> str:
    """The verdicts of comparisons with their numbers: 2 better, 1 worse."""
    verdicts = [line[2] for line in lines]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))


def noise(lines: Lines, alphas: list[Row]) -> str:
    """FLOAT against `dual`, trained for as long."""
    pairs = ("FLOAT against dual", "FLOAT, 12 epochs, against dual")
    found = [x for x in lines if x[0].startswith(pairs)]
    if not found or not alphas or sum(x[2] == "better" for x in found) > len(found) / 2:
        return ""
    least, most = min(min(r["value"]) for r in alphas), max(max(r["value"]) for r in alphas)
    return (
        "**Noise on the weights adds little to the dual norm that it comes with.** Verdicts on FLOAT's area in "
        f"{len(found)} comparisons with `dual`, both trained for as long: {counted(found)} ([6 epochs]({PLAIN}), "
        f"[12 epochs]({EQUAL})). The learned α lie between {least:.2f} and {most:.2f}. Where FLOAT is cheap, `dual` is "
        "as cheap."
    )


def time(equal: Lines) -> str:
    """Whether OAT's lead over methods that train in halves remains at equal numbers of attacked images."""
    lines = [x for x in equal if "against OAT" in x[0] and not x[0].startswith("OAT")]
    if not lines:
        return ""
    ahead = [line for line in lines if line[2] == "worse"]
    if len(ahead) == len(lines):
        head = "OAT leads at equal epochs, and at equal numbers of attacked images too."
    elif not ahead:
        head = "OAT leads at equal epochs, but not at equal numbers of attacked images."
    else:
        head = "OAT leads at equal epochs, but only sometimes at equal numbers of attacked images."
    return (
        f"**{head}** Methods that train in halves attack half of each batch. With twice the epochs, they see as many "
        "attacked images as OAT in about the same time. Verdicts on the areas under their dials in "
        f"{len(lines)} comparisons with OAT: {counted(lines)} ([figures]({EQUAL}))." + _updates(equal)
    )


def _updates(equal: Lines) -> str:
    """OAT with half the batch, which makes as many updates as methods in halves with twice the epochs."""
    found = [x for x in equal if x[0].startswith("OAT, batches of 64") and "against dual" in x[0]]
    if not found:
        return ""
    return (
        " Their gain comes from more updates, because OAT with half the batch makes as many updates at its own cost. "
        f"Verdicts on its area in {len(found)} comparisons with `dual` at 12 epochs: {counted(found)}."
    )


def two_networks(lines: Lines) -> str:
    """The value of two networks whose logits are mixed, at twice the compute."""
    found = [line for line in lines if "twice the MACs" in line[0]]
    equal = [line for line in lines if "equal MACs" in line[0]]
    ahead = [line for line in found if line[2] == "better"]
    if not found:
        return ""
    names = " and ".join(f"{a.partition(' against')[0]} on {_place(a)}" for a, _, _ in ahead)
    return (
        "**Two networks and a weighted mean of their logits are hard to beat, if twice the compute is free.** Verdicts "
        f"on the areas under {len(found)} dials, compared with theirs: {counted(found)}"
        + (f". The better ones are {names}" if names else "")
        + f". Verdicts at equal compute: {counted(equal)} ([figures]({PLAIN}))."
    )


def pgd20(believed: list[Row]) -> str:
    """By how much PGD-20 overestimated robust accuracy."""
    gaps: dict[tuple[str, float], dict[str, float]] = {}
    for r in believed:
        if r["tier"] == "standard" and r["attack"]["name"] in ("pgd20", "worst"):
            gaps.setdefault((r["run"], r["at"]["robustness"]), {})[r["attack"]["name"]] = r["robust_accuracy"]
    lower = [100 * (g["pgd20"] - g["worst"]) for g in gaps.values() if len(g) == 2]
    if not lower:
        return ""
    return (
        f"**PGD-20 overestimates robust accuracy.** On the same images, `standard` finds an RA that is "
        f"{min(lower):.1f} to {max(lower):.1f} points lower ([figures](evaluation.md#the-tiers-against-autoattack)). "
        "Curves on these pages are under `quick` unless they say otherwise. The robust ends were also attacked "
        "[more strongly](study.md#the-robust-end-under-stronger-attacks)."
    )


def masks(rows: list[Row]) -> str:
    """Learned masks against random ones."""
    found: dict[str, list[float]] = {"learned": [], "random": []}
    for r in worst_rows(rows):
        kind = r["run"].split("-")[1] if r["run"].startswith("mask-") else ""
        if kind in found and r["at"]["robustness"] == 1.0:
            found[kind].append(100 * r["robust_accuracy"])
    if not all(found.values()):
        return ""
    learned, random = (sum(v) / len(v) for v in found.values())
    if learned > random:
        return ""
    return (
        f"**Learned masks did not beat random ones** in {len(found['learned'])} pairs of short runs. The mean RA(1) is "
        f"{learned:.1f} with learned masks and {random:.1f} with random masks. Six epochs allow only five changes of "
        "mask, so this says nothing about long training."
    )


def latency(rows: list[Row], exits: list[Row]) -> str:
    """The MACs and the time that early exit saves."""
    said = []
    for r in exits:
        found = [w for w in worst_rows(rows) if w["run"] == r["name"] and w["at"].get("exit") == 1.0]
        row = max(found, key=lambda w: (w["n"], len(w["attack"]["of"])), default=None)
        if r["batch"] == 256 and row is not None:
            less = 100 * (1 - row["macs"]["mean"] / row["macs_static"])
            faster = 100 * (1 - r["ratio"]["median"])
            said.append(f"{r['name']} saves {less:.0f} % of the MACs and {faster:.0f} % of the time of a batch of 256")
    if not said:
        return ""
    return (
        f"**Saved MACs are not saved time**: {'; '.join(said)}. The layers that all images pass have large maps and "
        "few channels, which makes them slow for their MACs, and each exit adds small operators."
    )


def widths(speed: list[Row]) -> str:
    """The cost of a training step of a slimmable network, measured and predicted from its passes."""
    said = [
        f"{r['a']} on {r['name'].partition(',')[0]} {r['ratio']['median']:.2f} ({r['predicted']:.2f})"
        for r in speed
        if "every step" in r["name"] and r["a"] in ("oats", "float-slim")
    ]
    if not said:
        return ""
    return (
        "**Half the width is not a quarter of the time**, in training either. A training step takes, in multiples of "
        f"PGD-AT's and with the prediction from its passes in brackets: {'; '.join(said)}. Kernels work on blocks of "
        "16 channels, which narrow networks do not fill. Elementwise work falls with the width, not with its square."
    )


def section(*said: str) -> str:
    """The section, with the bullets that are not empty."""
    return "## What surprised us\n\n" + "\n".join(f"- {s}" for s in said if s) + "\n"


def _place(claim: str) -> str:
    return claim.rpartition("(")[2].rstrip(")")
