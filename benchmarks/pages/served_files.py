"""The section of the appendix on files in a lower precision: SA and RA beside the model in fp32."""

from __future__ import annotations

from pathlib import Path

from markdown import per_cent, signed, table
from plain import Row, read_bits, worst_rows

from rheostat.results.intervals import paired

SHOWN = {"bf16": "bf16, OpenVINO", "int8": "int8, ONNX Runtime", "int8-openvino": "int8, OpenVINO"}
NAMES = ("run", "t", "file", "SA", "RA", "n", "SA minus fp32", "RA minus fp32")


def section(rows: list[Row], results: Path) -> tuple[str, list[list[str]]]:
    """Every file beside the model in fp32, paired by image; and whether RA at the robust end is as in fp32."""
    found = {(r["run"], r["at"]["robustness"], r.get("precision", "fp32")): r for r in worst_rows(rows)}
    body, claims = [], []
    for run, t in dict.fromkeys((run, t) for run, t, _ in found):
        full = found.get((run, t, "fp32"))
        if full is None:
            continue
        for precision, shown in SHOWN.items():
            mine = found.get((run, t, precision))
            if mine is None:
                continue
            moved = [paired(read_bits(results, mine)[k], read_bits(results, full)[k]) for k in (0, 1)]
            values = [per_cent(mine["clean_accuracy"]), per_cent(mine["robust_accuracy"])]
            body.append([run, f"{t:g}", shown, *values, str(mine["n"]), *(signed(*m) for m in moved)])
            if t == 1.0:
                _, low, high = moved[1]
                what = f"{run} in {shown}: RA at t = 1 is not significantly different from fp32"
                claims.append([what, signed(*moved[1]), "met" if low <= 0.0 <= high else "not met"])
    text = (
        "## Files in a lower precision (`benchmarks/queues/files.toml`)\n\nAn image counts as robust if the file "
        "classifies it correctly under PGD-20 made on the model in fp32 (stopped at its first success there, and after "
        "all steps), and under its own Square attack of 200 queries. The model in fp32 is judged under PGD-20 and "
        "Square with other random starts, and also on its PGD-20 images rounded to 8 bits, which favours the file a "
        "little. A file has no gradients, so RA says here whether low precision loses robustness, not how robust the "
        "model is ([models](../models.md)). Brackets are 95 % intervals over images.\n\n"
    )
    return text + (table(NAMES, body) if body else "Not yet run.\n"), claims
