"""What points cost: parameters, bytes, folded latency. `python benchmarks/measure/costs.py` (an idle machine).

One process, modules in turn, medians and quartiles. Latency is of folded points: plain modules, so that a
ratio compares networks and not code around them. Rows go to results/costs.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from rheostat import nets
from rheostat.methods.composition import compose
from rheostat.models.artifact import versions
from rheostat.models.costs import latency, observe
from rheostat.models.folding import fold
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import write_timings
from rheostat.runtime.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results" / "costs.jsonl"
Row = dict[str, object]
ROBUST = Point(robustness=1.0)


def parameters() -> list[Row]:
    """Parameters at ResNet-34: FLOAT against the OAT of the paper's count and against our default."""
    cases = {
        "plain": compose("pgd-at"),
        "float": compose("float"),
        "oat (scalar, one norm set: the paper's 31.404 M)": compose("oat", encoding="scalar", sets=1),
        "oat (default)": compose("oat"),
    }
    return [
        {
            "name": "parameters, ResNet-34",
            "of": name,
            "value": sum(p.numel() for p in Tunable(nets.resnet(depth=34), stack).parameters()),
        }
        for name, stack in cases.items()
    ]


def ratio(
    name: str, models: dict[str, nn.Module], image: tuple[int, int, int], batch: int, seconds: float, **more: object
) -> Row:
    """Latency of the first module over that of the second, measured in turn."""
    models = {k: m.to(memory_format=torch.channels_last).eval() for k, m in models.items()}
    found = latency(models, image, batch=batch, seconds=seconds)
    (a, first), (b, second) = found.items()
    row: Row = {
        "name": name,
        "a": a,
        "b": b,
        "batch": batch,
        "n": first.n,
        "ratio": {
            "median": first.median / second.median,
            "low": first.low / second.high,
            "high": first.high / second.low,
        },
        "milliseconds": {a: [first.low, first.median, first.high], b: [second.low, second.median, second.high]},
        "macs": {k: observe(m, image).macs for k, m in models.items()},
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "seed": 0,
        **more,
    }
    print(
        f"{name:<58} {row['ratio']['median']:.3f}  batch {batch}  "  # type: ignore[index]
        f"{first.median:.2f} / {second.median:.2f} ms"
    )
    return row


def folded(seconds: float) -> list[Row]:
    """Folded points against the plain backbone folded the same way."""
    rows = []
    image = (3, 32, 32)
    for depth in (20, 18):
        plain = fold(Tunable(nets.resnet(depth=depth), compose("pgd-at")))
        noisy = fold(Tunable(nets.resnet(depth=depth), compose("float")), ROBUST)
        for batch in (1, 32):
            models: dict[str, nn.Module] = {"float": noisy, "plain": plain}
            name = f"folded FLOAT ÷ folded plain, ResNet-{depth}"
            rows.append(ratio(name, models, image, batch, seconds, bar=1.02))
    for depth, bar in ((20, 0.45), (18, 0.35)):
        model = Tunable(nets.resnet(depth=depth), compose("float-slim"))
        full = fold(model, ROBUST)
        for width in (0.5, 0.75):
            part = fold(model, Point(robustness=1.0, width=width))
            rows.append(
                ratio(
                    f"folded width {width} ÷ width 1, ResNet-{depth}",
                    {f"width {width}": part, "width 1": full},
                    image,
                    32,
                    seconds,
                    bar=bar if width == 0.5 else None,
                )
            )
    return rows


def sparse(seconds: float) -> list[Row]:
    """FLOATS at three densities, unstructured and by channels, against the dense FLOAT; ResNet-20."""
    rows = []
    dense = fold(Tunable(nets.resnet(depth=20), compose("float")), ROBUST)
    for structure in ("unstructured", "channel"):
        for density in (0.5, 0.3, 0.1):
            torch.manual_seed(0)
            stack = compose("floats", density=density, structure=structure)
            model = Tunable(nets.resnet(depth=20), stack)
            model.method.finish(model.net)
            part = fold(model, ROBUST)
            found = ratio(
                f"FLOATS {structure} {density} ÷ dense FLOAT, ResNet-20",
                {structure: part, "dense": dense},
                (3, 32, 32),
                32,
                seconds,
            )
            cost = observe(model, (3, 32, 32), ROBUST)
            rows.append(found | {"macs_nonzero": cost.macs_nonzero, "bytes": cost.bytes})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="per module and comparison")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    seconds = options.seconds
    write_timings(options.out, parameters() + folded(seconds) + sparse(seconds))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
