"""The section of the appendix on early exit in each runtime: `benchmarks/measure/exit_runtimes.py`."""

from __future__ import annotations

from markdown import table
from plain import Row

Lines = list[list[str]]


def section(rows: list[Row]) -> tuple[str, Lines]:
    """The table, and the claims for the sizes of batch that have a goal."""
    title = "## Early exit in each runtime (`python benchmarks/measure/exit_runtimes.py`)\n\n"
    if not rows:
        return title + "Not yet run.\n", []
    body, found = [], []
    for r in rows:
        early, never = (r["ratio"][name] for name in ("early exit", "no image leaves"))
        met = "" if r["goal"] is None else "met" if early["median"] <= r["goal"] else "not met"
        body.append(
            [
                r["name"],
                r["runtime"],
                str(r["batch"]),
                f"{r['milliseconds']['static']:.2f}",
                *("{median:.2f} [{low:.2f}, {high:.2f}]".format(**q) for q in (early, never)),
                "" if r["goal"] is None else f"≤ {r['goal']}",
                met,
                str(r["n"]),
            ]
        )
        if r["goal"] is not None:
            saved = f"{100 * (1 - early['median']):.0f} %"
            what = f"early exit in {r['runtime']}, batch {r['batch']}: ≥ {100 * (1 - r['goal']):.0f} % of latency saved"
            found.append([what, saved, met])
    head = [
        *("run", "runtime", "batch", "ms, without exits", "early exit ÷ without exits [quartiles]"),
        *("no image leaves early ÷ without exits [quartiles]", "goal", "", "batches"),
    ]
    first = rows[0]
    taken = ", ".join(f"{100 * share:.0f}" for share in first["taken"])
    accuracy = first["clean_accuracy"]
    text = (
        f"{title}A {first['net']['name']} of depth {first['net']['depth']} and width {first['net']['base_width']}, "
        f"trained without attacks, because only latency is measured; {first['threads']} thread(s) of "
        f"{first['hardware']['device']}. Of {first['examples']} clean test images, {taken} % take each exit in turn; "
        f"SA is {100 * accuracy['early exit']:.1f} with exits and {100 * accuracy['static']:.1f} without. "
        "That no image leaves early is the most that an attack on cost can reach. OpenVINO computes in a layout of its "
        "own, and a stage takes and returns feature maps in the usual one, in fp32; with bf16 this conversion takes "
        "longer than the convolutions of a stage.\n\n"
    )
    return text + table(head, body), found
