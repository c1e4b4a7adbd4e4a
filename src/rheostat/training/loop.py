"""`train`: a recipe trained in a folder, or continued there from where it was killed."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import torch

from rheostat import data, nets
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks, device_named, join
from rheostat.runtime.files import alone, write_text
from rheostat.runtime.interrupts import Interrupted, stoppable
from rheostat.runtime.seeding import preserved, seed_global, seed_of
from rheostat.training import checkpoint
from rheostat.training.checkpoint import Progress, State
from rheostat.training.finishing import Trained, finish, finished
from rheostat.training.recipe import Recipe
from rheostat.training.run import Report, TrainingRun
from rheostat.training.schedules import scheduler
from rheostat.training.selection import Watch
from rheostat.training.step import Step, sgd, training_attack

__all__ = ["Interrupted", "Trained", "build", "fingerprint", "train"]


def build(recipe: Recipe, train_set: data.Dataset) -> Tunable:
    """The untrained model of a recipe, on the CPU; weights from the recipe's seed alone."""
    mean, std = train_set.statistics()
    cpu = torch.device("cpu")
    with preserved(cpu):
        seed_global(seed_of(recipe.train.seed, "weights"), cpu)
        net = nets.build(
            {**recipe.net, "classes": len(train_set.classes), "image": train_set.image, "mean": mean, "std": std}
        )
        return Tunable(net, recipe.stack())


def fingerprint(recipe: Recipe, world: int) -> str:
    """What a checkpoint must agree with to be continued: the recipe less what changes no weight."""
    values = recipe.model_dump(mode="json")
    values["train"].pop("checkpoint_seconds")
    values["device"].pop("threads")
    if recipe.train.schedule != "multi-step":
        values["train"].pop("milestones")
        values["train"].pop("gamma")
    if not recipe.train.warmup:
        values["train"].pop("warmup")
    if recipe.train.rate_by == "step":
        values["train"].pop("rate_by")
    text = json.dumps([values, world], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    folder: str | Path | None = None,
    fresh: bool = False,
    report: Report | None = None,
) -> Trained:
    """Train a recipe, or continue the run in `out` (runs/NAME); returns the selected model.

    Writes `checkpoint.safetensors`, `metrics.jsonl`, `recipe.json` and at the end the artifact
    `model.safetensors` there, each whole or not at all.
    A run killed at any moment continues to the same weights, bit for bit (CPU); one that is finished
    is not touched. The number of threads is the caller's (`torch.set_num_threads`). Raises
    Interrupted after Ctrl-C, with the checkpoint saved; ValueError while another process trains there.
    """
    run = Path(out) if out is not None else Path("runs") / recipe.name
    device = device_named(recipe.device.name)
    ranks = join(device)
    if ranks.world > 1 and (why := recipe.stack().undivided()):
        raise ValueError(f"{why}; train in one process")
    with alone(run) if ranks.first else nullcontext():
        return _train(recipe, run, device, ranks, folder=folder, fresh=fresh, report=report)


def _train(
    recipe: Recipe,
    run: Path,
    device: torch.device,
    ranks: Ranks,
    *,
    folder: str | Path | None,
    fresh: bool,
    report: Report | None,
) -> Trained:
    loaded = data.load(recipe.data.name, folder=folder, verify=recipe.data.verify)
    splits = data.make_splits(
        *loaded, calibrate=recipe.data.calibrate, limit=recipe.data.train_images, seed=recipe.data.split_seed
    )
    train_set = splits.train.to(device)
    per_epoch = len(train_set) // recipe.train.batch
    if per_epoch == 0:
        raise ValueError(f"train.batch is {recipe.train.batch}, more than the {len(train_set)} training images")
    total = recipe.train.epochs * per_epoch
    if recipe.train.max_steps is not None:
        total = min(total, recipe.train.max_steps)
    model = build(recipe, splits.train).to(device)
    if recipe.device.channels_last:
        model.to_layout(torch.channels_last)
    state = State(model, sgd(model, recipe), Progress())
    path, mark = run / "checkpoint.safetensors", fingerprint(recipe, ranks.world)
    if path.is_file() and not fresh:
        checkpoint.restore(path, state, mark)
        done = finished(run, lambda r: fingerprint(r, ranks.world) == mark, device, state.progress, total)
        if done is not None:
            state.progress.flags = done[1]
            if report is not None and ranks.first:
                report({"event": "finished", "folder": str(run)})
            if recipe.device.channels_last:
                done[0].to_layout(torch.channels_last)
            return Trained(done[0], recipe, state.progress, splits)
    elif ranks.first:
        write_text(run / "recipe.json", recipe.model_dump_json(indent=1))
    if recipe.device.compile:
        model.read = torch.compile(model.read, dynamic=True)  # type: ignore[method-assign]
    train_options = recipe.train
    running = TrainingRun(
        recipe=recipe,
        folder=run,
        state=state,
        step=Step(
            model,
            training_attack(recipe),
            ranks,
            train_options.label_smoothing,
            train_options.trades,
            attacked_smoothing=train_options.attacked_smoothing,
        ),
        attack=training_attack(recipe),
        train_set=train_set,
        watch=Watch(recipe, splits.fit.to(device), epochs=-(-total // per_epoch)),
        scheduler=scheduler(state.optimiser, recipe, total, per_epoch=per_epoch, done=state.progress.step),
        mark=mark,
        total=total,
        per_epoch=per_epoch,
        report=report,
    )
    with stoppable() as received, preserved(device):
        running.loop(received)
    model.__dict__.pop("read", None)  # compiled for training alone
    if state.best is not None:
        model.load_state_dict(state.best)
    model.method.finish(model.net)
    trained = Trained(model, recipe, state.progress, splits)
    finish(trained, run, device, writes=ranks.first, report=report)
    ranks.wait()
    return trained
