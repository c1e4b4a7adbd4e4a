"""`make bench`: one process, interleaved, medians with spread. Every figure here is a ratio of one run.

What is measured, and the bar where there is one:
- OAT ÷ PGD-AT step over the ratio that the number of passes predicts (METHODS, "Speed"), at PGD-2 and
  PGD-7, on ResNet-18 (≤ 1.08) and on the recipes' narrow ResNet-8 (≤ 1.15);
- a step of FLOAT against PGD-AT (≤ 0.75), and of OAT against FLOAT (≥ 1.6);
- images a second, the share of a step outside forward and backward (≤ 10 %), peak memory;
- a step of every composition against PGD-AT's, beside what its passes predict;
- a sweep of 11 λ with PGD-20 against 11 separate Foolbox runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from attack_speed import subject, sweep
from ratios import row, show
from timed_steps import interleaved, pgd, stepper

from rheostat import nets
from rheostat.methods.composition import COMPOSITIONS, compose
from rheostat.models.costs import observe
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.machine import hardware
from rheostat.results.timings import write_timings
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.seeding import stream

RESULTS = Path(__file__).parents[1] / "results" / "speed.jsonl"
SUPPORT_SHARE = 0.8  # of the rows with λ > 0, how many have λ < 1 and take a clean pass too


def predicted(paper: str, batch: int, steps: int) -> float:
    """Passes of a step over those of PGD-AT at λ = 1; unit: a forward pass of one row."""
    pgd = batch * (3 + 2 * steps)
    if paper == "oat":
        zeros = -(-batch // 6)
        robust = batch - zeros
        return (3 * (zeros + SUPPORT_SHARE * robust + robust) + 2 * steps * robust) / pgd
    return batch / 2 * (3 + 3 + 2 * steps) / pgd


def training(times: int) -> list[dict[str, object]]:
    """Steps of OAT and dual against PGD-AT, over the pass-count ratio."""
    cases = (
        ("narrow ResNet-8", lambda: nets.resnet(depth=8, image=(1, 28, 28)), 128, 1.15, times),
        ("ResNet-18", lambda: nets.resnet(depth=18), 64, 1.08, max(times // 2, 4)),
    )
    rows = []
    for net, build, batch, bar, count in cases:
        for steps in (2, 7):
            papers = ("oat", "dual", "float", "pgd-at")
            runs = {p: stepper(build(), p, batch, pgd(steps)) for p in papers}
            found = interleaved(runs, count)
            for paper in ("oat", "dual"):
                ratio = predicted(paper, batch, steps)
                pairs = zip(found[paper], found["pgd-at"], strict=True)
                values = [a[0] / b[0] / ratio for a, b in pairs]
                rows.append(
                    row(
                        f"{net}, PGD-{steps}: measured ÷ predicted",
                        paper,
                        "pgd-at",
                        values,
                        predicted=ratio,
                        bar=bar if paper == "oat" else None,
                        images_per_second=batch / statistics.median(t for t, _ in found[paper]),
                        outside_share=statistics.median(o / t for t, o in found[paper]),
                        peak_mebibytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    )
                )
                show(rows[-1])
            for a, b, bar_name, limit in (("float", "pgd-at", "bar", 0.75), ("oat", "float", "bar_at_least", 1.6)):
                values = [x[0] / y[0] for x, y in zip(found[a], found[b], strict=True)]
                rows.append(row(f"{net}, PGD-{steps}: step time", a, b, values, **{bar_name: limit}))
                show(rows[-1])
    return rows


def rows_at(model: Tunable, batch: int, steps: int, number: int) -> dict[float, tuple[int, int]]:
    """Width → rows that one step trains on there, and rows times steps that it attacks, by its plan."""
    found: dict[float, tuple[int, int]] = {}
    for term in model.method.plan(batch, stream("plan", number)):
        width = float(term.at["width"]) if "width" in model.dials else 1.0
        trained, attacked = found.get(width, (0, 0))
        found[width] = (trained + len(term.rows), attacked + steps * len(term.rows) * (term.images != "clean"))
    return found


def rows_of(model: Tunable, batch: int, steps: int, number: int) -> tuple[float, float]:
    """Rows that one step trains on, and rows times steps that it attacks, by its plan; in rows at full width."""
    widths = model.dials["width"].values if "width" in model.dials else None
    share = {w: observe(model, model.net.image, Point(width=w)).macs for w in widths or ()}
    trained = attacked = 0.0
    for width, (in_training, in_attacks) in rows_at(model, batch, steps, number).items():
        size = share[width] / share[1.0] if share else 1.0
        trained += in_training * size
        attacked += in_attacks * size
    return trained, attacked


def passes(model: Tunable, batch: int, steps: int, number: int) -> float:
    """Passes of one step over those of PGD-AT, by its plan; unit: a forward pass of one row at full width.

    A pass of training is 3 (forward, and backward to weights and input), a step of the attack 2.
    """
    trained, attacked = rows_of(model, batch, steps, number)
    return (3 * trained + 2 * attacked) / (batch * (3 + 2 * steps))


def every(times: int) -> list[dict[str, object]]:
    """A step of every composition against PGD-AT's, PGD-2; those with widths on a wide network too."""
    rows = stepping(
        "narrow ResNet-8", lambda: nets.resnet(depth=8, image=(1, 28, 28)), COMPOSITIONS.names(), 128, times
    )
    widths = ["pgd-at", "oat", "oats", "float", "float-slim"]
    return rows + stepping("ResNet-18", lambda: nets.resnet(depth=18), widths, 32, max(times // 3, 4))


def stepping(
    net: str, build: Callable[[], nets.Net], papers: list[str], batch: int, times: int
) -> list[dict[str, object]]:
    """Steps of compositions on one network, in turns, against PGD-AT's."""
    steps = 2
    runs = {p: stepper(build(), p, batch, pgd(steps)) for p in papers}
    found = interleaved(runs, times)
    rows = []
    for paper in papers:
        if paper == "pgd-at":
            continue
        model = Tunable(build(), compose(paper))
        # The attack of a multi-exit net takes many passes of prefixes: no count by terms.
        plain = "exit" not in model.dials
        counted = [passes(model, batch, steps, n) for n in range(1, times + 1)] if plain else []
        values = [x[0] / y[0] for x, y in zip(found[paper], found["pgd-at"], strict=True)]
        rows.append(
            row(
                f"{net}, PGD-2: every step ÷ PGD-AT's",
                paper,
                "pgd-at",
                values,
                predicted=statistics.mean(counted) if counted else None,
                images_per_second=batch / statistics.median(t for t, _ in found[paper]),
            )
        )
        show(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=12, help="interleaved repetitions")
    parser.add_argument("--only", choices=["training", "sweep"], help="one part alone, which writes no rows")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    rows: list[dict[str, object]] = []
    if options.only != "sweep":
        rows += training(options.times) + every(options.times)
    if options.only != "training":
        swept = sweep(subject("oat-digits", 500, label="digits"), max(options.times // 3, 3))
        for found in swept:
            show(found)
        rows += swept
    if options.only is None:
        write_timings(options.out, rows)
        print(f"wrote {options.out}")
    print(json.dumps({"hardware": hardware(torch.device("cpu"))}))


if __name__ == "__main__":
    main()
