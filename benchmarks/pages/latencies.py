"""The sections of the appendix on runtimes and precisions: latency of every served form, speed of bf16 steps."""

from __future__ import annotations

import claims
from markdown import table
from plain import Row

FORMS = ("eager", "folded", "ONNX Runtime", "ONNX Runtime int8", "OpenVINO", "OpenVINO bf16", "OpenVINO int8")


def runtimes(rows: list[Row]) -> str:
    """The rows of `benchmarks/measure/runtimes.py`: milliseconds of each form, and the fastest over ONNX Runtime."""
    title = "## Latency of every form (`python benchmarks/measure/runtimes.py`)\n\n"
    if not rows:
        return title + "Not yet run.\n"
    # A row that was measured again keeps its old place in the file.
    nets, parts = (list(dict.fromkeys(r[key] for r in rows)) for key in ("net", "part"))
    rows = sorted(rows, key=lambda r: (nets.index(r["net"]), parts.index(r["part"]), r["batch"]))
    body = []
    for r in rows:
        times = {form: found["median"] for form, found in r["milliseconds"].items()}
        best = min(times, key=lambda form: times[form])
        shown = [f"{times[form]:.2f}" if form in times else "" for form in FORMS]
        body.append([r["net"], r["part"], str(r["batch"]), *shown, best, f"{times['ONNX Runtime'] / times[best]:.1f}"])
    head = ["network", "part", "batch", *FORMS, "fastest", "ONNX Runtime ÷ it"]
    exact = max(r["gaps"][form] for r in rows for form in ("folded", "ONNX Runtime", "OpenVINO"))
    low = max((r["gaps"][form] for r in rows for form in ("OpenVINO bf16",) if form in r["gaps"]), default=None)
    threads = rows[0]["milliseconds"]["eager"]["threads"]
    return (
        f"{title}Median milliseconds of a batch on {rows[0]['hardware']['device']}, {threads} thread(s), in fp32 "
        "unless the column says otherwise. Networks have random weights. The robust end of a dual norm is served, "
        "whole, at a width, or with masked channels cut out. Files in fp32 differ from the model by at most "
        f"{exact:.0e} of the largest logit{'' if low is None else f', in bf16 by {low:.0e}'}.\n\n"
        + table(head, body)
        + _parts(rows)
    )


def _parts(rows: list[Row]) -> str:
    """The time of each smaller part over that of the whole network, in each form."""
    whole = {(r["net"], r["batch"]): r for r in rows if r["part"] == "whole"}
    body = []
    for r in rows:
        base = whole.get((r["net"], r["batch"]))
        if r["part"] == "whole" or base is None:
            continue
        ratios = [
            f"{r['milliseconds'][form]['median'] / base['milliseconds'][form]['median']:.2f}"
            if form in r["milliseconds"] and form in base["milliseconds"]
            else ""
            for form in FORMS
        ]
        # The operations of a masked network are counted before its channels are cut out.
        share = "" if r["macs"] == base["macs"] else f"{r['macs'] / base['macs']:.2f}"
        body.append([r["net"], r["part"], str(r["batch"]), share, *ratios])
    if not body:
        return ""
    return (
        "\nThe time of a part over that of the whole network, both from the table above, beside its share of the "
        "multiplications:\n\n" + table(["network", "part", "batch", "MACs", *FORMS], body)
    )


def steps(rows: list[Row]) -> str:
    """The rows of `benchmarks/measure/precision_speed.py`."""
    title = "## Training steps in bf16 (`python benchmarks/measure/precision_speed.py`)\n\n"
    if not rows:
        return title + "Not yet run.\n"
    body = [
        [
            r["name"].partition(":")[0],
            "{median:.3f} [{low:.3f}, {high:.3f}]".format(**r["ratio"]),
            *(f"{r['images_per_second'][p]:.0f}" for p in ("fp32", "bf16")),
            str(r["n"]),
        ]
        for r in rows
    ]
    first = rows[0]
    head = ["network", "seconds, bf16 ÷ fp32 [quartiles]", "images/s, fp32", "images/s, bf16", "n"]
    return f"{title}`dual` with N-FGSM, batch {first['batch']}, {_machine(first)}.\n\n" + table(head, body)


def limits(rows: list[Row]) -> str:
    """The rows of `benchmarks/measure/step_limit.py`."""
    title = "## Training steps against their passes (`python benchmarks/measure/step_limit.py`)\n\n"
    if not rows:
        return title + "Not yet run.\n"
    names = [r["name"] for r in rows]
    body = [
        [
            r["name"].partition(":")[0],
            r["a"],
            "{median:.3f} [{low:.3f}, {high:.3f}]".format(**r["ratio"]),
            *claims.bar(r),
            f"{r['ratio_at_widths']['median']:.3f}" if "ratio_at_widths" in r else "",
            f"{r['images_per_second']:.0f}",
            str(r["batch"]),
            str(r["n"]),
        ]
        for r in sorted(rows, key=lambda r: names.index(r["name"]))  # methods that were added later beside the others
    ]
    head = [
        *("network, precision", "method", "step ÷ its passes [quartiles]", "goal", "", "÷ passes of narrow networks"),
        *("images/s", "batch", "n"),
    ]
    return (
        f"{title}A step's time over the time of its passes in the same network of plain PyTorch layers, in the same "
        "precision: passes of training, and of N-FGSM's one step, in eval and without gradients to the weights. 1 "
        "means that conditioning, norms and bookkeeping cost nothing. Attacks merge norms into convolutions, which can "
        "bring it below 1. Passes at widths below 1 count by their share of multiplications; the sixth column counts "
        "them at the measured time of plain networks of those widths. The attack of `rdi` is no sum of such passes, so "
        "`rdi` is compared with the time in which the plain network trains with as many FLOPs; there, 1 has no such "
        "meaning. In bf16, the plain network computes its first convolution in bf16 too, and ours in fp32. "
        f"{_machine(rows[0])}.\n\n" + table(head, body)
    )


def _machine(row: Row) -> str:
    """What a row of steps was measured on."""
    native = "yes" if row["native"] else "no"
    return f"{row['threads']} thread(s), {row['hardware']['device']}; the chip multiplies bf16 natively: {native}"
