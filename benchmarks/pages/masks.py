"""Sections of docs/appendix on sparse networks: FLOATS, SMART and the design of its masks."""

from __future__ import annotations

import itertools

from markdown import cell, dial, find, table
from plain import Row


def densities(rows: list[Row], costs: list[Row]) -> str:
    """FLOATS: density, structure, accuracy, non-zeros, MACs, time."""
    body = []
    speed = {str(r["name"]): r for r in costs if str(r["name"]).startswith("FLOATS")}
    for structure, prefix in (("unstructured", "floats-"), ("channel", "floats-channel-")):
        for density in (0.5, 0.3, 0.1):
            run = f"{prefix}{density}"
            found = dial(rows, run) or find(rows, run, "at-0")
            if not found:
                continue
            a, b = found[0], found[-1]
            took = speed.get(f"FLOATS {structure} {density} ÷ dense FLOAT, ResNet-20")
            body.append(
                [
                    structure,
                    f"{density:g}",
                    cell(a)[0],
                    cell(b)[0],
                    cell(b)[1],
                    f"{b['convolution_nonzeros']:,}",
                    f"{b['macs']['mean'] / 1e6:.2f} M",
                    f"{b['macs_nonzero'] / 1e6:.2f} M",
                    f"{took['ratio']['median']:.2f}" if took else "",
                ]
            )
    head = [
        "structure",
        "density",
        "SA, λ = 0",
        "SA, λ = 1",
        "RA, λ = 1",
        "convolution non-zeros",
        "MACs, dense kernels",
        "MACs without zeros",
        "folded latency ÷ dense (ResNet-20, batch 32)",
    ]
    text = (
        "## FLOATS\n\nUnstructured zeros save storage and counted MACs but no time. With the structure `channel`, "
        "`density` is the share of the channels inside blocks that is kept, and `fold` cuts out the others. Stem, "
        "shortcuts and residual stream keep all channels.\n\n"
    )
    return text + table(head, body)


def smart(rows: list[Row], groups: dict[str, tuple[str, str, str]]) -> tuple[str, dict[str, tuple[str, str]]]:
    """SMART against OAT: non-zeros and both ends. `groups` names its run, OAT's and that of the dense plain network."""
    body, claims = [], {}
    for name, (run, other, plain) in groups.items():
        mine, theirs = dial(rows, run), dial(rows, other)
        # OAT has the convolutions of the plain network; older rows do not count them separately.
        counted = [
            r["convolution_nonzeros"]
            for r in (*find(rows, plain, None), *find(rows, other, None))
            if "convolution_nonzeros" in r
        ]
        if not mine or not theirs or not counted:
            continue
        dense, path = counted[0], mine[-1]["convolution_nonzeros"]
        gaps = [
            100 * (mine[0]["clean_accuracy"] - theirs[0]["clean_accuracy"]),
            100 * (mine[-1]["robust_accuracy"] - theirs[-1]["robust_accuracy"]),
        ]
        body.append(
            [
                name,
                f"{dense:,}",
                f"{path:,}",
                f"{dense / path:.2f}",
                f"{theirs[-1]['nonzeros'] / path:.2f}",
                f"{mine[5]['convolution_nonzeros']:,}",
                f"{mine[-1]['macs_nonzero'] / 1e6:.2f} M",
                cell(mine[0])[0],
                cell(mine[-1])[1],
                f"{gaps[0]:+.1f}",
                f"{gaps[1]:+.1f}",
            ]
        )
        holds = dense / path >= 2.72 and min(gaps) >= -1.5
        said = f"{dense / path:.2f}× fewer; SA(0) {gaps[0]:+.1f} and RA(1) {gaps[1]:+.1f} points"
        claims[name] = (said, "met" if holds else "not met")
    head = [
        "",
        "non-zeros, dense plain network",
        "non-zeros per path",
        "dense plain ÷ path",
        "all weights of OAT ÷ path",
        "non-zeros of both paths",
        "MACs per path without zeros",
        "SA(0)",
        "RA(1)",
        "SA(0) minus OAT's",
        "RA(1) minus OAT's",
    ]
    text = (
        "## SMART\n\nSMART attacks half of each batch, OAT five sixths: 10 epochs of SMART see as many attacked images "
        "as 6 of OAT. Non-zeros are counted in convolutions.\n\n"
    )
    return text + table(head, body), claims


def ablation(rows: list[Row]) -> str:
    """Mask design: learned or random, free or disjoint, shared stages, two densities."""
    body = []
    values: dict[tuple[str, str, int, float], tuple[float, float]] = {}
    for density, masks, overlap, shared in itertools.product(
        (0.35, 0.15), ("learned", "random"), ("free", "disjoint"), (0, 2)
    ):
        found = find(rows, f"mask-{masks}-{overlap}-{shared}-{density}", "at-0")
        if not found:
            continue
        a, b = found[0], found[-1]
        values[masks, overlap, shared, density] = (a["clean_accuracy"], b["robust_accuracy"])
        body.append(
            [
                f"{density:g}",
                masks,
                overlap,
                str(shared),
                cell(a)[0],
                cell(b)[0],
                cell(b)[1],
                f"{b['convolution_nonzeros']:,}",
            ]
        )
    if not body:
        return ""

    def mean_gap(place: int, one: object, other: object) -> tuple[float, float, int]:
        gaps = []
        for key, value in values.items():
            twin = tuple(other if i == place else k for i, k in enumerate(key))
            if key[place] == one and twin in values:
                gaps.append([100 * (x - y) for x, y in zip(value, values[twin], strict=True)])  # type: ignore[index]
        n = len(gaps)
        return sum(g[0] for g in gaps) / max(n, 1), sum(g[1] for g in gaps) / max(n, 1), n

    sentences = []
    for place, one, other, text in (
        (0, "learned", "random", "Learned masks minus random masks"),
        (1, "free", "disjoint", "Paths that may overlap minus disjoint paths"),
        (2, 2, 0, "Stem and first stage dense and shared minus no sharing"),
    ):
        clean, robust, n = mean_gap(place, one, other)
        sentences.append(f"{text}: SA(0) {clean:+.1f} and RA(1) {robust:+.1f} points ({n} pairs).")
    head = ["density", "masks", "overlap", "shared stages", "SA(0)", "SA(1)", "RA(1)", "non-zeros per path"]
    intro = (
        "## SMART's masks\n\nEach line is a mean over pairs of runs that differ in one option only (one seed; the "
        "interval of a pair is about ± 3 points).\n\n"
    )
    return intro + "\n".join(f"- {s}" for s in sentences) + "\n\n" + table(head, body)
