"""The pages of docs/appendix/: every table behind docs/results.md, one page a subject."""

from __future__ import annotations

from markdown import contents as links

PAGES = {
    "claims": ("Every claim and bar", "what each paper claims and what we asked of ourselves, with figures"),
    "study": ("The study", "every dial on two data sets and two seeds, against plain alternatives, CIFAR-10 included"),
    "fashion": ("OAT on Fashion-MNIST", "OAT, `dual` and dedicated networks point by point"),
    "methods": (
        "Inside the methods",
        "the dial's continuity, SMART, FLOATS, widths, noise, the papers' variants, rivals",
    ),
    "exits": ("Exits", "compute saved, attacks on exits, latency, three dials at once"),
    "training": ("Training", "options, ablations, seconds and speed"),
    "evaluation": ("Can the evaluation be believed?", "tiers against AutoAttack, the budget of Square, and L2"),
    "deployment": ("Deployment", "serving, arrivals replayed, exports, costs, and what has not run yet"),
}
"""name: (title, what it holds)."""


def page(name: str, parts: list[str]) -> str:
    """One appendix: its title, links to its sections, the sections."""
    head = (
        f"# Appendix: {PAGES[name][0]}\n\nWritten by `python benchmarks/pages/build.py` from the rows in "
        "`benchmarks/results/`; no figure here was typed. Unless a table says otherwise, RA is under PGD-20 (tier "
        "`quick`), white-box at the very point, on the `test` split. Brackets are exact 95 % intervals; differences "
        "are paired on the same images. [Results](../results.md) sums up.\n"
    )
    kept = [part for part in parts if part]
    return "\n".join([head, links(kept), *kept])


def contents() -> str:
    """A list of all appendices, for docs/results.md."""
    return "".join(f"- [{title}](appendix/{name}.md): {about}\n" for name, (title, about) in PAGES.items())
