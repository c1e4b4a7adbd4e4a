"""The naive rival: weights interpolated between a standard and a robust network that were trained without each other.

`python benchmarks/measure/naive_segment.py [--data cifar10] [--seed 0]` trains two networks apart (other seeds, as a
user who has both would), and two fine-tuned from one ancestor that was trained as the standard one. At five λ it
interpolates all their tensors, re-estimates the norms on training images and measures the network that this makes. Rows
go to results/naive-segment.jsonl, as naive-DATA-apart-sSEED-λ and naive-DATA-ancestor-sSEED-λ.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from rheostat import data
from rheostat.attacks import Attack
from rheostat.calibration.statistics import estimate_statistics
from rheostat.data.splits import Splits, subset
from rheostat.evaluation.evaluator import evaluate
from rheostat.evaluation.options import EvaluationOptions
from rheostat.evaluation.target import Target
from rheostat.models.artifact import About
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.allocator import keep_freed_memory
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import stream
from rheostat.training.loop import build
from rheostat.training.recipe import Recipe, load_recipe
from rheostat.training.run import step_precision
from rheostat.training.schedules import scheduler
from rheostat.training.step import Step, batches, sgd, training_attack

RESULTS = Path(__file__).parents[1] / "results" / "naive-segment.jsonl"
CIFAR = ("data.name=cifar10", "attack.eps=8/255", "attack.step_size=5.6/255")
ATTACKS = "pgd20,pgd50-margin"
POINTS = 5


def recipe_of(options: argparse.Namespace, level: float, seed: int, epochs: int) -> Recipe:
    """The study's dedicated recipe at one λ."""
    changes = [f"method.robustness={level}", f"train.seed={seed}", f"train.epochs={epochs}", "device.precision=fp32"]
    return load_recipe(
        "pgd-at-fashion", changes=[*(CIFAR if options.data == "cifar10" else ()), *changes, *options.set]
    )


def tuned(recipe: Recipe, train_set: data.Dataset, start: Tunable | None = None) -> Tunable:
    """A dedicated network after the recipe's epochs, from its own weights or those of `start`."""
    model = build(recipe, train_set)
    if start is not None:
        model.load_state_dict(start.state_dict())
    per_epoch = len(train_set) // recipe.train.batch
    total = recipe.train.epochs * per_epoch
    optimiser, step = sgd(model, recipe), Step(model, training_attack(recipe), Ranks())
    rates = scheduler(optimiser, recipe, total, done=0)
    for number in range(total):
        images, labels = batches(train_set, recipe, number, per_epoch, step.ranks)
        terms = model.method.plan(recipe.train.batch, stream(recipe.train.seed, "plan", number))
        optimiser.zero_grad(set_to_none=False)
        with step_precision(recipe, images.device):
            step.backward(terms, images, labels, batch=recipe.train.batch, seed=(recipe.train.seed, "step", number))
        optimiser.step()
        rates.step()
    return model.eval()


@torch.no_grad()
def between(standard: Tunable, robust: Tunable, level: float) -> Tunable:
    """A network whose every tensor is (1-λ) of one and λ of the other; its statistics are then nobody's."""
    model = copy.deepcopy(standard)
    ends = standard.state_dict(), robust.state_dict()
    model.load_state_dict({k: torch.lerp(ends[0][k], ends[1][k], level) for k in ends[0]})
    return model


def pairs(options: argparse.Namespace, splits: Splits) -> dict[str, tuple[Tunable, Tunable, Recipe]]:
    """(standard, robust, recipe of the robust one) of both kinds; the ancestor takes half of the epochs."""
    epochs, half = options.epochs, max(options.epochs // 2, 1)
    standard = tuned(recipe_of(options, 0.0, options.seed, epochs), splits.train)
    recipe = recipe_of(options, 1.0, options.seed + 100, epochs)
    apart = (standard, tuned(recipe, splits.train), recipe)
    ancestor = tuned(recipe_of(options, 0.0, options.seed, half), splits.train)
    found = [recipe_of(options, level, options.seed, epochs - half) for level in (0.0, 1.0)]
    first, last = (tuned(r, splits.train, ancestor) for r in found)
    return {"apart": apart, "ancestor": (first, last, found[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("fashion-mnist", "cifar10"), default="fashion-mnist")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6, help="of each network, its ancestor's included")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], help="a change of the recipe, section.key=value")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    recipe = recipe_of(options, 1.0, options.seed, options.epochs)
    loaded = data.load(recipe.data.name, folder=options.data_dir, verify=recipe.data.verify)
    splits = data.make_splits(
        *loaded, calibrate=recipe.data.calibrate, limit=recipe.data.train_images, seed=recipe.data.split_seed
    )
    attack = Attack("pgd", recipe.attack.eps, recipe.attack.steps, step_size=recipe.attack.step_size, drop=False)
    short = "c10" if options.data == "cifar10" else "fmnist"
    for kind, (standard, robust, trained) in pairs(options, splits).items():
        about = About(
            classes=splits.train.classes,
            threat={"norm": recipe.attack.norm, "eps": recipe.attack.eps},
            provenance={"recipe": trained.model_dump(mode="json"), "dataset": recipe.data.name},
        )
        found = []
        for place in range(POINTS):
            level = place / (POINTS - 1)
            model = between(standard, robust, level)
            estimate_statistics(model, Point(), subset(splits.train, 1000), attack, attacked=level)
            target = Target(model, f"naive-{short}-{kind}-s{options.seed}-{level:g}", about=about)
            test = subset(splits.test, options.examples)
            found.append(evaluate(target, None, ATTACKS, test, options=EvaluationOptions(out=options.out))[-1])
        for key in ("clean_accuracy", "robust_accuracy"):
            values = [getattr(row, key) for row in found]
            straight = [values[0] + (values[-1] - values[0]) * k / (POINTS - 1) for k in range(POINTS)]
            depth = max(a - b for a, b in zip(straight, values, strict=True))
            shown = " ".join(f"{v:.3f}" for v in values)
            print(f"{short}, {kind}, {key}: {shown}; at most {100 * depth:.1f} points below the straight line")


if __name__ == "__main__":
    main()
