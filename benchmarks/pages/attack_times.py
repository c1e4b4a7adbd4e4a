"""The section of the appendix on `benchmarks/measure/attack_speed.py`: our attacks beside other libraries'."""

from __future__ import annotations

import claims
from markdown import table
from plain import Row

Lines = list[list[str]]


def section(rows: list[Row]) -> tuple[str, Lines]:
    """The table, and the claims with a bar."""
    title = "## Attacks beside other libraries' (`python benchmarks/measure/attack_speed.py`)\n\n"
    if not rows:
        return title + "Not yet run.\n", []
    body, found = [], []
    for r in rows:
        gap = f"{100 * r['gap']:+.1f}" if "gap" in r else ""
        shown = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**r["ratio"])
        images = str(r.get("images", ""))
        body.append([r["name"], r["a"], r["b"], shown, *claims.bar(r), gap, images, str(r["n"])])
        if r.get("bar") or r.get("bar_at_least"):
            found.append(claims.timed(f"{r['name']} ({r['a']}, {r['b']})", r))
    head = ["what", "a", "b", "seconds of a ÷ b [quartiles]", "goal", "", "RA, ours minus theirs", "images", "n"]
    first = rows[0]["hardware"]
    text = (
        f"{title}Both sides attack the same images in one process, in turns, on {first['device']} with "
        f"{first['threads']} thread(s). *bf16*: gradients in bf16, and every image judged in fp32. Foolbox attacks "
        "every image with all steps; ours omits images that are fooled.\n\n"
    )
    return text + table(head, body), found
