"""What we did not expect: a section of docs/appendix/claims.md, each sentence said only where its rows bear it out."""

from __future__ import annotations

from plain import Row, worst_rows

Lines = list[list[str]]


def noise(lines: Lines, alphas: list[Row]) -> str:
    """FLOAT against the dual norm that it comes with, trained as long."""
    pairs = ("FLOAT against dual", "FLOAT, 12 epochs, against dual")
    found = [x for x in lines if x[0].startswith(pairs)]
    verdicts = [verdict for _, _, verdict in found]
    if not found or not alphas or verdicts.count("better") > len(found) / 2:
        return ""
    least, most = min(min(r["value"]) for r in alphas), max(max(r["value"]) for r in alphas)
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    return (
        "**Noise on the weights buys little over the dual norm that it comes with.** Area less dual's, both trained as "
        f"long, square points ({counts}): "
        + "; ".join(f"{_epochs(a)}{_place(a)} {b}" for a, b, _ in found)
        + f". The learned α stay between {least:.2f} and {most:.2f}; where FLOAT is cheap, `dual` is as cheap."
    )


def time(equal: Lines) -> str:
    """Whether OAT's lead over a method that trains in halves outlives as many attacked images."""
    lines = [x for x in equal if "against OAT" in x[0] and not x[0].startswith("OAT")]
    if not lines:
        return ""
    ahead = [line for line in lines if line[2] == "worse"]
    behind = [line for line in lines if line[2] == "better"]
    if len(ahead) == len(lines):
        head = "OAT does not win at equal epochs only because each of its steps costs more."
        told = "every one stays behind it"
    elif not ahead:
        head, told = "OAT wins at equal epochs only because each of its steps costs more.", "none stays behind it"
    else:
        head = "Part of OAT wins at equal epochs only because each of its steps costs more."
        told = f"{len(lines) - len(ahead)} of {len(lines)} are no longer behind it"
    if behind:
        told += f", and {len(behind)} of {len(lines)} lie ahead"
    said = "; ".join(f"{a.partition(',')[0]}, {_place(a)}: {b}" for a, b, _ in lines)
    return (
        f"**{head}** Methods that train in halves attack half of each batch. Given twice the epochs, so as many "
        f"attacked images in about the same time, {told}. Area under their dials less OAT's, square points: {said}."
        + _updates(equal)
    )


def _updates(equal: Lines) -> str:
    """OAT with half the batch, and so as many updates as methods in halves have in twice the epochs."""
    found = [x for x in equal if x[0].startswith("OAT, batches of 64") and "against dual" in x[0]]
    if not found:
        return ""
    verdicts = [verdict for _, _, verdict in found]
    counts = ", ".join(f"{v} in {verdicts.count(v)} of {len(found)}" for v in dict.fromkeys(verdicts))
    return (
        " What they gain is updates: OAT with half the batch, as many updates at its own cost, is against `dual` at 12 "
        f"epochs {counts}: " + "; ".join(f"{_place(a)} {b}" for a, b, _ in found) + "."
    )


def two_networks(lines: Lines) -> str:
    """What keeping two networks and mixing their logits is worth, at twice the compute."""
    found = [line for line in lines if "twice the MACs" in line[0]]
    ahead = [line for line in found if line[2] == "better"]
    behind = [line for line in found if line[2] == "worse"]
    if not found:
        return ""
    names = ", ".join(f"{a.partition(' against')[0]} ({_place(a)})" for a, _, _ in ahead)
    return (
        f"**Two networks and a weighted mean of their logits are hard to beat, if twice the compute is free.** Of "
        f"{len(found)} dials, {len(behind)} lie below them, {len(ahead)} above"
        + (f" ({names})" if names else "")
        + ". At equal compute it is the other way about: see the claims."
    )


def pgd20(believed: list[Row]) -> str:
    """By how much PGD-20 flattered."""
    gaps: dict[tuple[str, float], dict[str, float]] = {}
    for r in believed:
        if r["tier"] == "standard" and r["attack"]["name"] in ("pgd20", "worst"):
            gaps.setdefault((r["run"], r["at"]["robustness"]), {})[r["attack"]["name"]] = r["robust_accuracy"]
    shown = [
        f"{run} at λ = {at:g}: {100 * g['pgd20']:.1f} → {100 * g['worst']:.1f}"
        for (run, at), g in gaps.items()
        if len(g) == 2
    ]
    if not shown:
        return ""
    return (
        "**PGD-20 flatters.** `quick` against `standard` on the same images: "
        + "; ".join(shown)
        + ". Curves here are by `quick` unless they say otherwise; what it hides at every robust end is in the table "
        "of stronger attacks."
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
        f"**Learned masks did not beat random ones** in {len(found['learned'])} pairs of short runs: RA(1) "
        f"{learned:.1f} on average against {random:.1f}. Six epochs are five changes of mask; nothing is said of "
        "long training."
    )


def latency(rows: list[Row], exits: list[Row]) -> str:
    """MACs that early exit saves, and the time that it saves."""
    said = []
    for r in exits:
        found = [w for w in worst_rows(rows) if w["run"] == r["name"] and w["at"].get("exit") == 1.0]
        row = max(found, key=lambda w: (w["n"], len(w["attack"]["of"])), default=None)
        if r["batch"] == 256 and row is not None:
            less = 100 * (1 - row["macs"]["mean"] / row["macs_static"])
            faster = 100 * (1 - r["ratio"]["median"])
            said.append(f"{r['name']} {less:.0f} % of the MACs, {faster:.0f} % of the time of a batch of 256")
    if not said:
        return ""
    return (
        f"**MACs saved are not time saved**: {'; '.join(said)}. The layers that every row passes are those of large "
        "maps and few channels, slow for their MACs, and each exit adds small operators."
    )


def widths(speed: list[Row]) -> str:
    """What a training step of a slimmed net costs over its passes, on a narrow and a wide network."""
    said = [
        f"{r['a']} on {r['name'].partition(',')[0]} {r['ratio']['median']:.2f} of PGD-AT's step where its passes say "
        f"{r['predicted']:.2f}"
        for r in speed
        if "every step" in r["name"] and r["a"] in ("oats", "float-slim")
    ]
    if not said:
        return ""
    return (
        f"**Half the width is not a quarter of the time**, in training either: {'; '.join(said)}. Kernels work on "
        "blocks of 16 channels, which narrow networks do not fill, and elementwise work falls with the width, not "
        "with its square."
    )


def section(*said: str) -> str:
    """The bullets that have something to say."""
    return "## What surprised us\n\n" + "\n".join(f"- {s}" for s in said if s) + "\n"


def _epochs(claim: str) -> str:
    return "12 epochs, " if "12 epochs" in claim else ""


def _place(claim: str) -> str:
    return claim.rpartition("(")[2].rstrip(")")
