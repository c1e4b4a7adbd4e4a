"""Attacks against those of other libraries, on the same images in one process → results/attack-speed.jsonl.

`python benchmarks/measure/attack_speed.py NAME` on an idle machine: a sweep of eleven positions of the dial with PGD-20
against eleven runs of Foolbox, and the tier `standard` against AutoAttack at the robust end. Ours runs in fp32, and
where the chip multiplies bf16 natively with gradients in bf16, judged in fp32. `speed.py` repeats the sweep.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ratios import row, show
from timed_steps import interleaved

from rheostat import data
from rheostat.attacks import Attack, named
from rheostat.evaluation.attacked import chunks
from rheostat.evaluation.chunks import Task, measured
from rheostat.evaluation.tiers import attacks_of
from rheostat.models.artifact import load_with
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.results.timings import merge_timings
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.precision import native_bf16

RESULTS = Path(__file__).parents[1] / "results" / "attack-speed.jsonl"


@dataclass(frozen=True)
class Subject:
    """A model with the images that it is attacked on, and eps in units of [0, 1]."""

    name: str
    model: Tunable
    images: data.Dataset
    eps: float


def subject(
    which: str, images: int, *, label: str | None = None, folder: Path | None = None, verify: bool = True
) -> Subject:
    """A model trained for L-inf and the first test images of its data set; rows call it `label`, or by its file."""
    model, about = load_with(which)
    name = about.provenance["recipe"]["data"]["name"]
    test = data.subset(data.load(name, folder=folder, verify=verify)[1], images)
    assert about.threat["norm"] == "linf"
    return Subject(label or Path(which).name, model.to_layout(torch.channels_last), test, about.threat["eps"])


def attacked(of: Subject, task: Task) -> float:
    """Mean RA over the points of a task after all its attacks, as `evaluate` measures it, chunk by chunk."""
    standing = [
        measured(task, data.to_pixels(of.images.images[part]), of.images.labels[part], number)["standing"][:, -1]
        for number, part in enumerate(chunks(of.images))
    ]
    return float(torch.cat(standing, 1).double().mean())


def by_foolbox(of: Subject, points: list[Point], attack: Attack, seed: int) -> float:
    """Mean RA over the points under Foolbox's PGD with the same step and number of steps."""
    import foolbox

    x, y = data.to_pixels(of.images.images), of.images.labels
    found = []
    for point in points:
        at = of.model.at(point)
        torch.manual_seed(seed)
        reference = foolbox.attacks.LinfPGD(abs_stepsize=attack.size, steps=attack.steps)
        _, (moved,), _ = reference(foolbox.PyTorchModel(at, bounds=(0, 1)), x, y, epsilons=[of.eps])
        with torch.no_grad():
            found.append(float((at(moved).argmax(1) == y).double().mean()))
    return statistics.mean(found)


def ratio(found: dict[str, list[tuple[float, float]]], a: str, b: str) -> list[float]:
    """Seconds of a over those of b, turn by turn."""
    return [x[0] / y[0] for x, y in zip(found[a], found[b], strict=True)]


def gap(found: dict[str, list[tuple[float, float]]], a: str, b: str) -> float:
    """Mean RA under a minus that under b."""
    return statistics.mean(r for _, r in found[a]) - statistics.mean(r for _, r in found[b])


def sweep(of: Subject, times: int, *, low: bool = False, bar: float = 1.5) -> list[dict[str, object]]:
    """Eleven positions with PGD-20: ours against eleven Foolbox runs; a warm start against a cold one.

    Ours omits images that are fooled already and lets points share batches. A warm start gives up the latter to try
    first what the attacks at other points found.
    """
    points = [Point(robustness=i / 10) for i in range(11)]
    attack = Attack("pgd", of.eps, 20)

    def ours(warm: bool, low: bool) -> Callable[[int], float]:
        return lambda seed: attacked(of, Task(of.model, tuple(points), (attack,), seed, warm, low=low))

    runs = {
        "rheostat": ours(False, False),
        "foolbox": lambda seed: by_foolbox(of, points, attack, seed),
        "warm": ours(True, False),
        **({"rheostat, bf16": ours(False, True)} if low else {}),
    }
    found = interleaved(runs, times, warm_up=0)
    name = f"sweep of 11 points, PGD-20, {of.name}"
    rows = []
    for mine in [m for m in runs if m.startswith("rheostat")]:
        speed = 11 * len(of.images) / statistics.median(t for t, _ in found[mine])
        more = {"images": len(of.images), "images_per_second": speed, "gap": gap(found, mine, "foolbox")}
        rows.append(
            row(f"{name}: Foolbox ÷ ours", "foolbox", mine, ratio(found, "foolbox", mine), bar_at_least=bar, **more)
        )
    rows.append(row(f"{name}: cold ÷ warm", "cold", "warm", ratio(found, "rheostat", "warm")))
    return rows


def standard(of: Subject, times: int, *, low: bool) -> list[dict[str, object]]:
    """The tier `standard` at the robust end against AutoAttack: seconds, and RA in points."""
    tiers = {"standard": attacks_of("standard", len(of.images.classes)), "autoattack": ["autoattack"]}

    def run(tier: str, low: bool) -> Callable[[int], float]:
        attacks = tuple(named(a, eps=of.eps, norm="linf") for a in tiers[tier])
        return lambda seed: attacked(of, Task(of.model, (Point(robustness=1.0),), attacks, seed, low=low))

    runs = {
        "standard": run("standard", False),
        **({"standard, bf16": run("standard", True)} if low else {}),
        "autoattack": run("autoattack", False),
    }
    found = interleaved(runs, times, warm_up=0)
    return [
        row(
            f"the tier standard at t = 1, {of.name}: ours ÷ AutoAttack",
            mine,
            "autoattack",
            ratio(found, mine, "autoattack"),
            bar=0.15,
            images=len(of.images),
            gap=gap(found, mine, "autoattack"),
        )
        for mine in runs
        if mine != "autoattack"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a model that ships, or a file, trained for L-inf")
    parser.add_argument("--times", type=int, default=3, help="turns")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["sweep", "standard"], help="one part alone")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--no-verify", action="store_true", help="as in `rheostat evaluate`")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    low = native_bf16(torch.device("cpu"))
    of = subject(options.name, options.images, folder=options.data_dir, verify=not options.no_verify)
    for part in ("sweep", "standard"):
        if options.only in (None, part):
            rows = (
                sweep(of, options.times, low=low, bar=3.0) if part == "sweep" else standard(of, options.times, low=low)
            )
            for found in rows:
                show(found)
            merge_timings(options.out, rows, key=("name", "a", "b"))


if __name__ == "__main__":
    main()
