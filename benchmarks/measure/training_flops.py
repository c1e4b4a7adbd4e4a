"""FLOPs that the training of a queue's runs takes → results/training-flops.jsonl.

`python benchmarks/measure/training_flops.py [QUEUE ...] [--no-verify]`; by default the runs that the page compares by
time. One step of each run is counted at each size of its images, with its attacks, and multiplied by the number of such
steps. Selection and calibration are not part of the count. It needs the training images, and no idle machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from flop_counts import flops

from rheostat import data
from rheostat.models.artifact import versions
from rheostat.results.timings import read_timings, write_timings
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.early_size import sized
from rheostat.training.loop import build
from rheostat.training.queue import Run, read_queue
from rheostat.training.recipe import load_recipe
from rheostat.training.run import step_precision
from rheostat.training.step import Step, training_attack

BENCHMARKS = Path(__file__).parents[1]
RESULTS = BENCHMARKS / "results" / "training-flops.jsonl"
QUEUES = [BENCHMARKS / "queues" / name for name in ("time-to-robust.toml", "zoo/cifar10-resnet18.toml")]


def measured(run: Run, verify: bool) -> dict[str, object]:
    """The count of one run: its steps with small images and its steps with whole ones."""
    recipe = load_recipe(run.source, changes=[*run.settings, *([] if verify else ["data.verify=false"])])
    loaded = data.load(recipe.data.name, verify=recipe.data.verify)
    given, t = recipe.data, recipe.train
    if t.awp or t.max_steps is not None:
        raise ValueError(f"{run.name}: train.awp and train.max_steps are not counted")
    train_set = data.make_splits(
        *loaded, calibrate=given.calibrate, limit=given.train_images, seed=given.split_seed
    ).train
    total = t.epochs * (len(train_set) // t.batch)
    early = 0 if t.early_size == 1 else sum(n / total < t.early_until for n in range(total))

    def of_step(number: int) -> int:
        model = build(recipe, train_set).to_layout(torch.channels_last)
        step = Step(
            model,
            training_attack(recipe),
            Ranks(),
            t.label_smoothing,
            t.trades,
            attacked_smoothing=t.attacked_smoothing,
        )
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        images, labels = data.to_pixels(train_set.images[: t.batch]), train_set.labels[: t.batch]
        images = sized(images, t, number / total)
        terms = model.method.plan(t.batch, stream(t.seed, "plan", number))

        def once() -> None:
            with step_precision(recipe, images.device):
                step.backward(terms, images, labels, batch=t.batch, seed=(t.seed, "step", number))

        return flops(once)

    small, whole = (of_step(0) if early else 0), of_step(total - 1)
    found = {
        "name": "FLOPs of training",
        "run": run.name,
        "steps": total,
        "early_steps": early,
        "of_early_step": small,
        "of_step": whole,
        "flops": early * small + (total - early) * whole,
        "seed": t.seed,
        "versions": versions(),
    }
    print(f"{run.name}: {total} steps, {found['flops']:.3g} FLOPs", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queue", nargs="*", type=Path, default=QUEUES)
    parser.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True, help="check data files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = [measured(run, options.verify) for queue in options.queue for run in read_queue(queue)]
    kept = [r for r in read_timings(options.out) if r["run"] not in {row["run"] for row in rows}]
    write_timings(options.out, [*kept, *rows])
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
