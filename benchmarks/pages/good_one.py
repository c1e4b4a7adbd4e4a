"""The generated part of docs/training.md on what options gain: every line comes from two rows of `fast.toml`."""

from __future__ import annotations

from pathlib import Path

import fast
from filling import filled
from markdown import find, signed, table
from plain import Row, read_bits

from rheostat.results.intervals import paired

NAME = "good one"
OPTIONS = {
    "average of weights": ("`train.ema`", "fast-base", "fast-no-average"),
    "one-cycle in place of cosine": ("`train.schedule`", "fast-base", "fast-cosine"),
    "60 % of a batch attacked in place of 50 %": ("`method.attacked`", "fast-base", "fast-halves"),
    "PGD-2 in place of N-FGSM": ("`attack.kind`", "fast-pgd2", "fast-base"),
    "smoothing 0.3 of attacked rows": ("`train.attacked_smoothing`", "fast-smoothing", "fast-base"),
    "eps that rises over 30 % of training": ("`attack.warmup`", "fast-eps", "fast-base"),
    "images of 24 × 24 in the first half": ("`train.early_size`", "fast-early-size", "fast-base"),
}
"""Option → its key, the run with it, the run without."""


def page(text: str, rows: list[Row], results: Path) -> str:
    """docs/training.md with the table of options."""
    body = []
    for what, (key, with_it, without) in OPTIONS.items():
        a, b = (fast.ends(find(rows, run, "at-0")) for run in (with_it, without))
        if not (a and b):
            continue
        gaps = [
            paired(*(read_bits(results, of[at])[kind] for of in (a, b))) for at, kind in ((0.0, 0), (1.0, 0), (1.0, 1))
        ]
        seconds = a[1.0]["train"]["seconds"] / b[1.0]["train"]["seconds"]
        body.append([what, key, *(_shown(gap) for gap in gaps), f"{seconds:.2f}"])
    head = ["option", "key", "SA(0)", "SA(1)", "RA(1)", "time of training"]
    return filled(text, NAME, table(head, body) if body else "Not yet run.\n")


def _shown(gap: tuple[float, float, float]) -> str:
    """The difference with its interval, bold if the interval excludes 0."""
    text = signed(*gap)
    return f"**{text}**" if gap[1] > 0 or gap[2] < 0 else text
