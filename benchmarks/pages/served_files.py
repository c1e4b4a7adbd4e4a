"""The section of the appendix on files in a lower precision: SA and RA beside the model in fp32."""

from __future__ import annotations

from pathlib import Path

from markdown import per_cent, signed, table
from plain import Row, read_bits, worst_rows

from rheostat.results.intervals import paired

SHOWN = {"bf16": "bf16, OpenVINO", "int8": "int8, ONNX Runtime", "int8-openvino": "int8, OpenVINO"}
NAMES = ("model", "t", "file", "SA", "RA", "n", "SA minus fp32", "RA minus fp32")


def section(rows: list[Row], results: Path) -> str:
    """Every file beside the model in fp32, paired by image."""
    found = {(r["run"], r["at"]["robustness"], r.get("precision", "fp32")): r for r in worst_rows(rows)}
    body = []
    for run, t in dict.fromkeys((run, t) for run, t, _ in found):
        full = found.get((run, t, "fp32"))
        if full is None:
            continue
        for precision in SHOWN:
            mine = found.get((run, t, precision))
            if mine is None:
                continue
            moved = [signed(*paired(read_bits(results, mine)[k], read_bits(results, full)[k])) for k in (0, 1)]
            values = [per_cent(mine["clean_accuracy"]), per_cent(mine["robust_accuracy"])]
            body.append([run, f"{t:g}", SHOWN[precision], *values, str(mine["n"]), *moved])
    return (
        "## Files in a lower precision (`benchmarks/queues/files.toml`)\n\nAn image counts as robust if the file "
        "classifies it correctly both under PGD-20 made on the model in fp32 and under its own Square attack of 200 "
        "queries. The model in fp32 is judged under the same two attacks with other random starts, and also on its "
        "PGD-20 images rounded to 8 bits, which favours the file a little. A file has no gradients, so RA says here "
        "whether low precision loses robustness, not how robust the model is ([models](../models.md)). Brackets are "
        "95 % intervals over images.\n\n" + (table(NAMES, body) if body else "Not yet run.\n")
    )
