"""One measured ratio of two times as a row, and as a line of text."""

from __future__ import annotations

import statistics

import torch

from rheostat.models.artifact import versions
from rheostat.results.machine import hardware


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    quarters = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "low": quarters[0], "high": quarters[2]}


def row(name: str, a: str, b: str, values: list[float], **more: object) -> dict[str, object]:
    return {
        "name": name,
        "a": a,
        "b": b,
        "ratio": spread(values),
        "n": len(values),
        "seed": 0,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        **more,
    }


def show(found: dict[str, object]) -> None:
    """One line of the table."""
    ratio = found["ratio"]
    assert isinstance(ratio, dict)
    common = ("name", "a", "b", "ratio", "n", "seed", "hardware", "versions")
    more = {k: v for k, v in found.items() if v and k not in common}
    text = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in more.items())
    print(
        f"{found['name']:<44} {found['a']:>8}  {ratio['median']:.3f} "
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}] n={found['n']}  {text}",
        flush=True,
    )
