"""Sections of docs/appendix on training: options that decide robust accuracy, and OAT's own ablation."""

from __future__ import annotations

import itertools
from pathlib import Path

from markdown import cell, find, per_cent, signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired


def options(rows: list[Row], results: Path) -> str:
    """Training options, each compared with none, for dual and OAT."""
    names = {
        "plain": "none",
        "trades": "TRADES, β = 6",
        "average": "weight averaging, 0.99",
        "awp": "AWP, γ = 0.005",
        "smoothing": "label smoothing, 0.1",
    }
    body = []
    for method, option in itertools.product(("dual", "oat"), names):
        found = find(rows, f"c10-{method}-{option}", "at-0")
        base = find(rows, f"c10-{method}-plain", "at-0")
        if len(found) < 2 or len(base) < 2:
            continue
        gaps = []
        for i, kind in ((0, 0), (1, 0), (1, 1)):
            gap = paired(read_bits(results, found[i])[kind], read_bits(results, base[i])[kind])
            gaps.append("" if option == "plain" else signed(*gap))
        body.append(
            [
                method,
                names[option],
                cell(found[0])[0],
                cell(found[1])[0],
                cell(found[1])[1],
                *gaps,
                f"{found[0]['train']['seconds']:.0f}",
            ]
        )
    if not body:
        return ""
    head = [
        "",
        "option",
        "SA(0)",
        "SA(1)",
        "RA(1)",
        *(f"{k} minus none" for k in ("SA(0)", "SA(1)", "RA(1)")),
        "training, s",
    ]
    return (
        "## Training options (CIFAR-10 subset)\n\nEach option was trained once, on 5 000 images for 8 epochs with seed "
        "0, and measured under PGD-20 on 1 000 test images. All options are off by default.\n\n" + table(head, body)
    )


def ablation(rows: list[Row]) -> str:
    """The ablation of OAT: norm sets × encoding × initialisation of FiLM."""
    body = []
    for sets, encoding, start in itertools.product(
        ("dual", "single"), ("cosine", "scalar", "orthogonal"), ("identity", "paper")
    ):
        found = find(rows, f"oat-{sets}-{encoding}-{start}", "at-0")
        if found:
            body.append(
                [
                    sets,
                    encoding,
                    "ours" if start == "identity" else "the paper's",
                    *(f"{per_cent(r['clean_accuracy'])} / {per_cent(r['robust_accuracy'])}" for r in found),
                ]
            )
    if not body:
        return ""
    levels = [f"λ = {r['at']['robustness']:g}" for r in found]
    return (
        "## OAT's ablation\n\nEach row is one network, trained on 5 000 images of Fashion-MNIST for 5 epochs with seed "
        '0. Cells are SA / RA under PGD-20 on 500 test images, with the rule "at-0"; an interval is about ± 4 '
        "points.\n\n" + table(["norm sets", "encoding of λ", "initialisation of FiLM", *levels], body)
    )
