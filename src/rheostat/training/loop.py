"""The training loop: train a job in a folder or resume it there; and `train` for recipes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheostat import data, nets
from rheostat.data.conversion import Form
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks, device_named, join
from rheostat.runtime.files import alone, write_text
from rheostat.runtime.interrupts import Interrupted, stoppable
from rheostat.runtime.seeding import preserved, seed_global, seed_of
from rheostat.training import checkpoint
from rheostat.training.attacks import as_training_attack
from rheostat.training.checkpoint import Progress, State
from rheostat.training.early_size import check_early_size
from rheostat.training.feed import Feed
from rheostat.training.finishing import Ending, finish, refilled
from rheostat.training.optimisers import made_optimiser, made_scheduler
from rheostat.training.options import FitOptions
from rheostat.training.precision import settled
from rheostat.training.recipe import Recipe, parse_recipe
from rheostat.training.result import Trained
from rheostat.training.run import Report, TrainingRun
from rheostat.training.selection import Watch
from rheostat.training.settings import Settings
from rheostat.training.starting import NetGiven, name_of, own_network, remember
from rheostat.training.step import Step, training_attack

__all__ = ["Interrupted", "Job", "Trained", "build", "fingerprint", "perform", "train"]


@dataclass(frozen=True)
class Job:
    """A whole run: model, data, settings and folder.

    `same` says whether a finished model belongs to this run. `begin` prepares the model and the folder for the first
    step; it is called once nothing is left that may refuse the run. If it changes a model of the caller, `mark` must
    cover the names and shapes of the tensors, because those of a checkpoint are compared only when it is restored.
    """

    model: Tunable
    settings: Settings
    options: FitOptions
    feed: Feed
    fit: data.Dataset
    folder: Path
    mark: str
    about: artifact.About
    same: Callable[[Mapping[str, Any]], bool]
    class_weights: Tensor | None = None
    begin: Callable[[], None] | None = None

    @property
    def total(self) -> int:
        """Steps of the run."""
        train = self.settings.train
        steps = train.epochs * self.feed.per_epoch
        return steps if train.max_steps is None else min(steps, train.max_steps)


def perform(job: Job, *, fresh: bool, report: Report | None) -> tuple[Progress, artifact.About]:
    """Train the job's model in place, or continue it, and finish it; a finished model is restored from its file.

    Writes `checkpoint.safetensors`, `metrics.jsonl`, `recipe.json` and at the end the artifact
    `model.safetensors`, each atomically. The caller must hold the lock of the folder. Whatever may refuse the run is
    checked before the model changes.
    """
    model, settings, options, ranks = job.model, job.settings, job.options, job.feed.ranks
    if settings.device.channels_last:
        model.to_layout(torch.channels_last)
    state = State(model, made_optimiser(options.optimiser, model, settings), Progress())
    path, stored, over = job.folder / "checkpoint.safetensors", None, False
    if path.is_file() and not fresh:
        stored = checkpoint.read(path, job.mark, ranks=ranks.world)
        state.progress = stored.progress
        over = state.progress.step >= job.total or bool(state.progress.stopped)
    running = None if over else _running(job, state, report)
    if job.begin is not None:
        job.begin()
    if stored is not None:
        checkpoint.restore(stored, state)
        stored = None  # it holds every tensor of the file
        about = refilled(model, job.folder / "model.safetensors", job.same) if over else None
        if about is not None:
            model.about = about
            state.progress.flags = list(about.provenance.get("flags", []))
            if report is not None and ranks.first:
                report({"event": "finished", "folder": str(job.folder)})
            return state.progress, about
    elif ranks.first:
        write_text(job.folder / "recipe.json", settings.model_dump_json(indent=1))
    if running is not None:
        if settings.device.compile:
            model.read = torch.compile(model.read, dynamic=True)  # type: ignore[method-assign]
        try:
            with stoppable() as received, preserved(job.feed.device):
                running.loop(received)
        finally:
            model.__dict__.pop("read", None)  # it was compiled only for training
    if state.best is not None:
        model.load_state_dict(state.best)
    model.method.finish(model.net)
    ending = Ending(model, settings, job.fit, job.folder, job.about, ranks.first, report)
    about = model.about = finish(ending, state.progress)
    ranks.wait()
    return state.progress, about


def _running(job: Job, state: State, report: Report | None) -> TrainingRun:
    """The run in progress of a job, at the step of its state."""
    settings, options, train = job.settings, job.options, job.settings.train
    radius = settings.attack
    check_early_size(job.model, train)
    given = options.attack if options.attack is not None else training_attack(settings)
    attack = as_training_attack(given, eps=radius.eps, norm=radius.norm)
    step = Step(
        job.model,
        attack,
        job.feed.ranks,
        train.label_smoothing,
        train.trades,
        attacked_smoothing=train.attacked_smoothing,
        loss=options.loss,
        class_weights=job.class_weights,
        parts=options.accumulate,
    )
    progress, total = state.progress, job.total
    scheduler = made_scheduler(
        options.scheduler,
        state.optimiser,
        settings,
        total=total,
        per_epoch=job.feed.per_epoch,
        done=progress.step,
        epochs=progress.epochs,
    )
    return TrainingRun(
        settings=settings,
        folder=job.folder,
        state=state,
        step=step,
        attack=attack,
        feed=job.feed,
        watch=Watch(settings, job.fit, epochs=-(-total // job.feed.per_epoch)),
        scheduler=scheduler,
        mark=job.mark,
        total=total,
        callbacks=options.callbacks,
        report=report,
    )


def build(recipe: Recipe, train_set: data.Dataset) -> Tunable:
    """The untrained model of a recipe, on the CPU; its weights depend only on the recipe's seed."""
    mean, std = train_set.statistics()
    cpu = torch.device("cpu")
    with preserved(cpu):
        seed_global(seed_of(recipe.train.seed, "weights"), cpu)
        net = nets.build(
            {**recipe.net, "classes": len(train_set.classes), "image": train_set.image, "mean": mean, "std": std}
        )
        return Tunable(net, recipe.stack())


def fingerprint(settings: Settings, world: int, *more: object) -> str:
    """A hash that a checkpoint must match to be continued: of `more` and of all settings that affect the weights."""
    values = settings.model_dump(mode="json")
    values["train"].pop("checkpoint_seconds")
    values["device"].pop("threads")
    if settings.train.schedule != "multi-step":
        values["train"].pop("milestones")
        values["train"].pop("gamma")
    if not settings.train.warmup:
        values["train"].pop("warmup")
    if settings.train.rate_by == "step":
        values["train"].pop("rate_by")
    if settings.train.early_size == 1:
        values["train"].pop("early_size")
        values["train"].pop("early_until")
    if settings.select.loss == "ce":
        values["select"].pop("loss")
    values.pop("about", None)
    if values["data"].get("size") is None:
        for key in ("size", "resize", "mode"):
            values["data"].pop(key, None)
    text = json.dumps([values, world, *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    folder: str | Path | None = None,
    fresh: bool = False,
    report: Report | None = None,
    net: NetGiven | None = None,
    callbacks: Sequence[object] = (),
) -> Trained:
    """Train a recipe, or continue the run in `out` (default runs/NAME); return the run with its selected model.

    `net` is a function without arguments that makes your network, in place of the recipe's: a module, which is adopted
    with the data set's mean and standard deviation, or a `Tunable` of the recipe's composition. `callbacks` is as in
    `fit`.
    A run killed at any moment continues to the same weights, bit for bit (CPU). A finished run does not change. The
    caller sets the number of threads (`torch.set_num_threads`). Raises Interrupted after Ctrl-C, with the checkpoint
    saved; ValueError while another process trains in the folder.
    """
    run = Path(out) if out is not None else Path("runs") / recipe.name
    device = device_named(recipe.device.name)
    ranks = join(device)
    if ranks.world > 1 and (why := recipe.stack().undivided()):
        raise ValueError(f"{why}; train in one process")
    options = FitOptions(callbacks=tuple(callbacks))
    with alone(run) if ranks.first else nullcontext():
        recipe = settled(recipe, run, device, ranks, fresh=fresh, report=report)
        splits, images = _splits(recipe, folder)
        job = _job(recipe, options, splits, images, run, device, ranks, net)
        job = replace(job, begin=functools.partial(_begin, job, recipe, folder))
        progress, about = perform(job, fresh=fresh, report=report)
    return Trained(job.model, recipe, progress, run, about, job.feed.form, options.callbacks, splits)


def _begin(job: Job, recipe: Recipe, folder: str | Path | None) -> None:
    """Give all ranks the first weights of the first one, and record where the images are."""
    job.feed.ranks.copy_first([*job.model.parameters(), *job.model.buffers()])
    if job.feed.ranks.first:
        remember(job.folder, recipe.data.name, folder)


def _splits(recipe: Recipe, folder: str | Path | None) -> tuple[data.Splits, str]:
    """The splits of a recipe, and the hash of what decides them."""
    loaded = data.load(
        recipe.data.name, folder=folder, verify=recipe.data.verify, preprocessing=recipe.data.preprocessing()
    )
    given = recipe.data
    splits = data.make_splits(*loaded, calibrate=given.calibrate, limit=given.train_images, seed=given.split_seed)
    return splits, data.order_hash(given.name, loaded[0])


def _job(
    recipe: Recipe,
    options: FitOptions,
    splits: data.Splits,
    images: str,
    run: Path,
    device: torch.device,
    ranks: Ranks,
    net: NetGiven | None,
) -> Job:
    """The job of a recipe, with its images on the device."""
    train_set = splits.train.to(device)
    per_epoch = len(train_set) // recipe.train.batch
    if per_epoch == 0:
        raise ValueError(f"train.batch is {recipe.train.batch}, more than the {len(train_set)} training images")
    form = Form(train_set.image, train_set.classes, preprocessing=train_set.preprocessing)
    if net is None:
        model, more = build(recipe, splits.train), []
    else:
        model, more = own_network(recipe, splits.train, net), [name_of(net)]

    def marked(settings: Settings, images: str) -> str:
        return checkpoint.with_images(fingerprint(settings, ranks.world, *more), images)

    mark = marked(recipe, images)
    return Job(
        model=model.to(device),
        settings=recipe,
        options=options,
        feed=Feed(train_set, form, recipe, ranks, per_epoch, device),
        fit=splits.fit.to(device),
        folder=run,
        mark=mark,
        about=artifact.About(
            classes=train_set.classes,
            threat={"norm": recipe.attack.norm, "eps": recipe.attack.eps},
            provenance={
                "recipe": recipe.model_dump(mode="json"),
                "dataset": recipe.data.name,
                **({} if net is None else {"network": name_of(net)}),
                **({"images": images} if images else {}),
            },
            preprocessing=train_set.preprocessing,
        ),
        # An older model does not name its images.
        same=lambda found: marked(parse_recipe(found["recipe"]), found.get("images", images)) == mark,
    )
