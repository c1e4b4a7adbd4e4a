"""What fitting a dial costs, and how good the fit is: `python benchmarks/measure/calibration.py [MODEL ...]`.

`calibrate_dial` against the same search with every place attacked on all rows, in fp32, from 9 evenly spaced places:
its seconds of CPU time on one thread and its passes, on the same images of calibrate-fit, in turns. Then both maps are
judged on calibrate-choose by PGD-20 at t = 0 to 1 by 0.1: the largest rise of RA per 0.1 of t (0.1 of the whole rise
would be linear), the largest distance from the straight line, and SA at equal RA. Rows go to results/calibration.jsonl.

A model is a packaged name or a run folder. A ResNet-18 of width 32 that has seen few steps:
`rheostat train cifar10-resnet20 --out runs/r18 --set net.depth=18 --set net.base_width=32 --set train.max_steps=260
--set train.epochs=1 --set train.ema=0.9 --set calibrate_dial=false`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rheostat import data
from rheostat.attacks import Attack
from rheostat.calibration.dial import FINEST, IMAGES, Knot, calibrate_dial, fitted, on_path
from rheostat.evaluation.attacked import outcome
from rheostat.models.artifact import load_with, versions
from rheostat.models.tunable import Tunable
from rheostat.points.dial_map import DialMap
from rheostat.points.point import Point
from rheostat.results.intervals import share
from rheostat.results.machine import hardware
from rheostat.results.timings import read_timings, write_timings
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.precision import resolved

RESULTS = Path(__file__).parents[1] / "results" / "calibration.jsonl"
Row = dict[str, object]
Curve = list[tuple[float, float]]
"""(SA, RA) at t = 0 to 1 by 0.1."""


def everywhere(
    model: Tunable, fit: data.Dataset, attack: Attack, *, coarse: int = 9, jump: float = 0.05, most: int = 21
) -> list[Knot]:
    """Fit the dial with every place attacked on all rows in fp32, as version 0.2.0 did; returns the places."""
    places = [i / (coarse - 1) for i in range(coarse)]
    path = on_path(model, sorted({*places, 0.5}))

    def knot(u: float) -> Knot:
        return Knot(u, share(outcome(path, Point(robustness=u), fit, attack).robust), len(fit))

    knots = [knot(u) for u in places]
    while len(knots) < most:
        pairs = [(a, b) for a, b in itertools.pairwise(knots) if b.place - a.place > FINEST]
        a, b = max(pairs, key=lambda pair: (abs(pair[1].robust - pair[0].robust), pair[0].place))
        if abs(b.robust - a.robust) <= jump:
            break
        knots = sorted([*knots, knot((a.place + b.place) / 2)], key=lambda k: k.place)
    model.dial_map = fitted(model, knots)
    return knots


class Passes:
    """Counts the images that pass a model: judged (forward alone) and attacked (with a gradient), by precision."""

    def __init__(self, model: Tunable) -> None:
        self.counts: Counter[str] = Counter()
        read = model.read

        def counted(x: Tensor, at: object) -> object:
            kind = "attacked" if torch.is_grad_enabled() else "judged"
            low = "bf16" if torch.is_autocast_enabled(x.device.type) else "fp32"
            self.counts[f"{kind} in {low}"] += len(x)
            return read(x, at)  # type: ignore[arg-type]

        model.read = counted  # type: ignore[method-assign, assignment]


def timed(model: Tunable, fit: Callable[[], list[Knot]]) -> tuple[float, list[Knot], DialMap | None]:
    """CPU seconds of a fit, its places and its map; no places and no map where RA does not rise."""
    model.dial_map, knots = None, []
    start = time.process_time()
    try:
        knots = fit()
    except ValueError as problem:
        print(problem)
    return time.process_time() - start, knots, model.dial_map


def curve(model: Tunable, found: DialMap, choose: data.Dataset, eps: float) -> Curve:
    """(SA, RA) under PGD-20 along the dial with this map."""
    model.dial_map = found
    low = resolved("auto", choose.images.device) == "bf16"
    points = [Point(robustness=i / 10) for i in range(11)]
    each = [outcome(model, point, choose, Attack("pgd", eps, 20), low=low) for point in points]
    return [(share(o.clean), share(o.robust)) for o in each]


def quality(found: Curve) -> dict[str, float]:
    """The largest rise of RA per 0.1 of t as a share of the whole rise, and the largest distance from linear."""
    robust = np.array([r for _, r in found])
    whole = robust[-1] - robust[0]
    line = robust[0] + whole * np.linspace(0, 1, 11)
    return {
        "largest_rise": float(np.diff(robust).max()),
        "largest_share_of_rise": float(np.diff(robust).max() / whole),
        "farthest_from_linear": float(np.abs(robust - line).max()),
    }


def clean_at_equal_robust(a: Curve, b: Curve) -> float:
    """The difference in SA, a minus b, at nine levels of RA that both reach; the one of largest size."""

    def clean(found: Curve, levels: list[float]) -> np.ndarray:
        robust = np.maximum.accumulate([r for _, r in found])
        return np.interp(levels, robust, [s for s, _ in found])

    low, high = max(a[0][1], b[0][1]), min(a[-1][1], b[-1][1])
    levels = np.linspace(low, high, 11)[1:-1].tolist()
    gaps = clean(a, levels) - clean(b, levels)
    return float(gaps[np.abs(gaps).argmax()])


def measured(which: str, options: argparse.Namespace) -> Row:
    """The row of one model."""
    model, about = load_with(which)
    model.to_layout(torch.channels_last)
    loaded = data.load(about.provenance["recipe"]["data"]["name"], verify=options.verify)
    splits = data.make_splits(*loaded, calibrate=about.provenance["recipe"]["data"]["calibrate"])
    fit, choose = data.subset(splits.fit, options.images), data.subset(splits.choose, options.judged)
    eps = about.threat["eps"]
    attack = Attack("pgd", eps, 10)
    passes = Passes(model)
    ways = {
        "new": lambda: calibrate_dial(model, fit, attack, images=None),
        "old": lambda: everywhere(model, fit, attack),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    knots: dict[str, list[Knot]] = {}
    maps: dict[str, DialMap | None] = {}
    counts: dict[str, dict[str, int]] = {}
    for _ in range(options.times):
        for name, way in ways.items():
            passes.counts.clear()
            took, knots[name], maps[name] = timed(model, way)
            seconds[name].append(took)
            counts[name] = dict(passes.counts)
            print(f"{which} {name}: {took:.1f} s of CPU, {len(knots[name])} places, {counts[name]}", flush=True)
    ratios = sorted(a / b for a, b in zip(seconds["new"], seconds["old"], strict=True))
    row: Row = {
        "name": f"calibration of the dial, {options.label or which}: new ÷ every place in fp32",
        "a": "calibrate_dial",
        "b": "every place",
        "n": options.times,
        "images": len(fit),
        "ratio": {"median": ratios[len(ratios) // 2], "low": ratios[0], "high": ratios[-1]},
        "cpu_seconds": seconds,
        "places": {name: len(k) for name, k in knots.items()},
        "passes": counts,
        "seed": 0,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    if knots["new"]:
        best = max(knots["new"], key=lambda k: k.robust)
        row |= {"robust_accuracy": best.robust, "interval": list(best.interval)}
    both = {
        name: curve(model, found, choose, eps) for name, found in maps.items() if found is not None and options.judged
    }
    if len(both) == 2:
        row |= {"judged_on": len(choose), "curve": both, **{f"{n} map": quality(c) for n, c in both.items()}}
        row["clean_at_equal_robust"] = clean_at_equal_robust(both["new"], both["old"])
        print({k: v for k, v in row.items() if "map" in k or "equal" in k})
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["cifar10-resnet20"], help="packaged names or run folders")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of calibrate-fit")
    parser.add_argument("--judged", type=int, default=500, help="images of calibrate-choose; 0: only the cost")
    parser.add_argument("--times", type=int, default=1, help="interleaved repetitions")
    parser.add_argument("--label", help="the model's name in the row")
    parser.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True, help="check data files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = [measured(which, options) for which in options.models]
    kept = [r for r in read_timings(options.out) if r["name"] not in {row["name"] for row in rows}]
    write_timings(options.out, [*kept, *rows])
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
