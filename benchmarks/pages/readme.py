"""The parts of README.md generated from rows: its picture, its results, and the costs in its table of methods."""

from __future__ import annotations

import replays
from filling import filled
from groups import steps
from markdown import find
from method_pages import costs

import results

METHODS = {
    "dual": "two sets of norms and nothing else: the simplest dial; take it first",
    "oat": "dual norms, and FiLM layers that take λ as an input (Wang et al., NeurIPS 2020)",
    "oats": "OAT with slimmable widths: robustness and compute (same paper)",
    "float": "dual norms and learned noise on the weights (Kundu et al., WACV 2023)",
    "floats": "FLOAT with learned sparse masks (same paper)",
    "smart": "two sparse paths in one weight tensor (Kundu et al., ICASSP 2023)",
    "rdi": "early exits, trained under attack (Hu et al., ICLR 2020)",
    "mixing": "baseline: two networks whose logits are mixed",
}


def methods(found: results.Found) -> str:
    """The lines of README's table of methods, at most eight: what each is, and what it costs."""
    took = steps(found.read["speed"]) | {"pgd-at": 1.0}
    dense = find(found.rows, "pgd-at-1", None)[0]["params"]
    lines = []
    for name, what in METHODS.items():
        time, params = costs(found.rows, name, took, dense)
        lines.append(f"| [`{name}`](docs/methods/{name}.md) | {what} | {time} | {params} |\n")
    return "".join(lines)


def page(text: str, found: results.Found, picture: str) -> str:
    """README.md with its generated parts replaced; `picture` is the part with the picture."""
    text = filled(text, "picture", picture)
    text = filled(text, "methods", methods(found))
    text = filled(text, "ladder", replays.ladder(found.read["serve-trace"]))
    return filled(text, "results", results.five_sentences(found))
