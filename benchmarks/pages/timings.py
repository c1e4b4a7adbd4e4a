"""Sections of docs/appendix on times and costs: `make bench`, folded latency, exports."""

from __future__ import annotations

import claims
from markdown import table
from plain import Row


def speed(rows: list[Row]) -> str:
    """The rows of `make bench`."""
    body = []
    for r in rows:
        q = r["ratio"]
        bar, holds = claims.bar(r)
        body.append(
            [
                r["name"],
                r["a"],
                r["b"],
                f"{q['median']:.3f} [{q['low']:.3f}, {q['high']:.3f}]",
                f"{r['predicted']:.2f}" if r.get("predicted") else "",
                str(r["n"]),
                bar,
                holds,
                f"{r['images_per_second']:.0f}" if r.get("images_per_second") else "",
                f"{100 * r['outside_share']:.1f} %" if "outside_share" in r else "",
                f"{r['peak_mebibytes']:.0f}" if "peak_mebibytes" in r else "",
            ]
        )
    head = [
        "what",
        "a",
        "b",
        "ratio, median [quartiles]",
        "predicted from passes",
        "n",
        "limit",
        "verdict",
        "images/s",
        "share outside forward and backward",
        "peak MiB (process)",
    ]
    text = (
        "## Speed (`make bench`)\n\nEach row is the time of a ÷ the time of b; the two are measured alternately. "
        "With *measured ÷ predicted*, that ratio is divided by the ratio predicted from the passes of a step.\n\n"
    )
    return text + table(head, body)


def costs(found: list[Row]) -> str:
    """The rows of `benchmarks/measure/costs.py`."""
    counts = [[r["of"], f"{r['value'] / 1e6:.3f} M"] for r in found if "value" in r]
    body = [
        [
            r["name"],
            str(r["batch"]),
            f"{r['ratio']['median']:.3f} [{r['ratio']['low']:.3f}, {r['ratio']['high']:.3f}]",
            f"{r['milliseconds'][r['a']][1]:.2f}",
            f"{r['milliseconds'][r['b']][1]:.2f}",
            *claims.bar(r),
        ]
        for r in found
        if "ratio" in r
    ]
    head = ["folded latency", "batch", "ratio of medians [of quartiles]", "ms, first", "ms, second", "limit", "verdict"]
    return (
        "## Costs (`python benchmarks/measure/costs.py`)\n\nThe first table counts parameters. The second compares the "
        "latencies of two folded networks, measured alternately.\n\n"
        + table(["ResNet-34", "parameters"], counts)
        + "\n"
        + table(head, body)
    )


def exports(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """Each composition on each network: parity of the folded model and of the file, and latency."""
    if not rows:
        return "", []
    body = [
        [
            r["net"],
            r["composition"],
            *(f"{r['ratio'][b]:.3f}" for b in ("1", "32")),
            *(f"{r['milliseconds']['32'][k]:.1f}" for k in ("eager", "folded", "plain", "ONNX Runtime")),
            f"{r['folded_gap']:.0e}",
            f"{r['onnx_gap']:.0e}",
        ]
        for r in rows
    ]
    ratios = sorted(r["ratio"]["32"] for r in rows)
    over = sum(v > 1.02 for v in ratios)
    worst = max(r["onnx_gap"] for r in rows)
    found = [
        [
            f"folded ÷ plain ≤ 1.02, {len(rows)} compositions × networks, batch 32",
            f"median {ratios[len(ratios) // 2]:.3f}, largest {ratios[-1]:.3f}; {over} above 1.02",
            "met" if not over else "not met",
        ],
        [
            "ONNX Runtime within 1e-4 of the model, on the same",
            f"largest gap {worst:.1e}",
            "met" if worst <= 1e-4 else "not met",
        ],
    ]
    head = [
        "network",
        "composition",
        "folded ÷ plain, batch 1",
        "batch 32",
        "ms, batch 32: eager",
        "folded",
        "plain",
        "ONNX Runtime",
        "folded gap",
        "ONNX gap",
    ]
    text = (
        "## Folded and exported (`python benchmarks/measure/exports.py`)\n\nEach model is folded at the robust end, "
        "the last exit and width 1. The plain backbone is folded in the same way. Gaps are relative to the largest "
        "logit.\n\n"
    )
    return text + table(head, body), found
