"""The training loop: steps, checkpoints, selection; continues where it was killed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rheostat import data, nets
from rheostat.attacks import Attack
from rheostat.calibration.dial import calibrate_dial
from rheostat.calibration.exit_policy import fit_policy
from rheostat.data import Splits
from rheostat.data.splits import subset
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from rheostat.runtime.distributed import Ranks, device_named, join
from rheostat.runtime.files import alone, write_text
from rheostat.runtime.interrupts import Interrupted, stoppable
from rheostat.runtime.seeding import seed_of, stream
from rheostat.training import checkpoint
from rheostat.training.checkpoint import Progress, State
from rheostat.training.recipe import Recipe
from rheostat.training.selection import Watch
from rheostat.training.step import Step, batches, learning_rate, sgd, training_attack, warmed
from rheostat.training.tensorboard import to_tensorboard

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """A finished run: the selected model in eval, its recipe, and what was recorded per epoch."""

    model: Tunable
    recipe: Recipe
    progress: Progress
    splits: Splits


def build(recipe: Recipe, train_set: data.Dataset) -> Tunable:
    """The untrained model of a recipe; weights from the recipe's seed alone."""
    mean, std = train_set.statistics()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.train.seed, "weights"))
        net = nets.build(
            {**recipe.net, "classes": len(train_set.classes), "image": train_set.image, "mean": mean, "std": std}
        )
        return Tunable(net, recipe.stack())


def fingerprint(recipe: Recipe, world: int) -> str:
    """What a checkpoint must agree with to be continued: the recipe less what changes no weight."""
    values = recipe.model_dump(mode="json")
    values["train"].pop("checkpoint_seconds")
    values["device"].pop("threads")
    text = json.dumps([values, world], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _average(state: State, decay: float) -> None:
    current = state.model.state_dict()
    if state.average is None:
        state.average = {k: v.detach().clone() for k, v in current.items()}
        return
    for key, value in current.items():
        if value.is_floating_point():
            state.average[key].lerp_(value.detach(), 1 - decay)
        else:
            state.average[key].copy_(value)


def _precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    if recipe.device.precision == "fp32":
        return nullcontext()
    # Without its cache: that one keeps the cast weights until the context ends, past optimiser steps,
    # and passes would go on with the weights of the first.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


@dataclass
class _Run:
    """A run in progress: what the loop needs, so that each of its parts is a short function."""

    recipe: Recipe
    folder: Path
    state: State
    step: Step
    attack: Attack
    train_set: data.Dataset
    watch: Watch
    mark: str
    total: int
    per_epoch: int
    report: Report | None

    def save(self) -> None:
        if self.step.ranks.first:
            checkpoint.save(self.folder / "checkpoint.safetensors", self.state, self.mark)

    def one_step(self) -> None:
        """Draw, attack, pass, update; then the method's own bookkeeping and the weight average."""
        state, t = self.state, self.recipe.train
        progress, model = state.progress, state.model
        assert isinstance(model, Tunable)
        number = progress.step
        images, labels = batches(self.train_set, self.recipe, number, self.per_epoch, self.step.ranks)
        terms = model.method.plan(t.batch, stream(t.seed, "plan", number))
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, number, self.total)
        state.optimiser.zero_grad(set_to_none=False)
        torch.manual_seed(seed_of(t.seed, "dropout", number, self.step.ranks.rank))
        self.step.attack = warmed(self.attack, self.recipe, number, self.total)
        self.step.awp = t.awp if number >= t.awp_from * self.total else 0.0
        # Low precision makes, full precision judges: only the step runs under autocast.
        with _precision(self.recipe, images.device):
            sums = self.step.backward(terms, images, labels, batch=t.batch, seed=(t.seed, "step", number))
        self.step.ranks.sum_gradients(model.parameters())
        if t.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t.clip)
        state.optimiser.step()
        progress.step = number + 1
        model.method.after_step(model.net, progress.step / self.total)
        if t.ema is not None:
            _average(state, t.ema)
        for key, value in sums.items():
            progress.running[key] = progress.running.get(key, 0.0) + value

    def end_epoch(self) -> None:
        """Score on calibrate-fit, keep the best weights, write the metrics line."""
        state, ranks = self.state, self.step.ranks
        progress, model = state.progress, state.model
        assert isinstance(model, Tunable)
        epoch = -(-progress.step // self.per_epoch)
        model.method.after_epoch(model.net, progress.step / self.total)
        sums = self._summed(progress.running)
        progress.running = {}
        steps = progress.step - (epoch - 1) * self.per_epoch
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": progress.step,
            "loss": sums["loss"] / max(steps, 1),
            "train_clean_accuracy": sums["clean"] / max(sums["clean_n"], 1),
            "train_robust_accuracy": sums["robust"] / max(sums["robust_n"], 1),
            "seconds": round(progress.seconds, 1),
        }
        current = model.state_dict()
        if state.average is not None:
            kept = {k: v.clone() for k, v in current.items()}
            model.load_state_dict(state.average)
        scored = self.watch.score(model, epoch)
        line |= scored
        progress.flags = self.watch.flags(progress.epochs, line)
        line["flags"] = progress.flags
        progress.epochs.append(line)
        if self.watch.may_select(epoch) and scored["score"] > progress.best_score:
            progress.best_score, progress.best_epoch = scored["score"], epoch
            state.best = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if state.average is not None:
            model.load_state_dict(kept)
        if ranks.first:
            text = "".join(json.dumps(e) + "\n" for e in progress.epochs)
            write_text(self.folder / "metrics.jsonl", text)
            to_tensorboard(self.folder, line)
        if self.report is not None and ranks.first:
            self.report({"event": "epoch", "epochs": self.recipe.train.epochs, **line})

    def _summed(self, sums: dict[str, float]) -> dict[str, float]:
        keys = sorted(sums)
        total = self.step.ranks.sum(torch.tensor([sums[k] for k in keys], dtype=torch.float64))
        return dict(zip(keys, total.tolist(), strict=True))

    def loop(self, asked: list[int]) -> None:
        """To the last step, or to the checkpoint after the step in which a stop was asked for."""
        progress = self.state.progress
        started, saved = time.monotonic() - progress.seconds, time.monotonic()
        while progress.step < self.total:
            self.one_step()
            progress.seconds = time.monotonic() - started
            ended = progress.step % self.per_epoch == 0 or progress.step == self.total
            if self.report is not None and self.step.ranks.first:
                self.report(
                    {
                        "event": "step",
                        "step": progress.step,
                        "total": self.total,
                        "seconds": progress.seconds,
                        "mean_loss": progress.running["loss"] / ((progress.step - 1) % self.per_epoch + 1),
                        **progress.running,
                    }
                )
            if ended:
                self.end_epoch()
            due = time.monotonic() - saved > self.recipe.train.checkpoint_seconds
            if ended or due or asked:
                self.save()
                saved = time.monotonic()
            if asked and progress.step < self.total:
                raise Interrupted(f"stopped after step {progress.step} of {self.total}; the same command continues")


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
    A run killed at any moment continues to the same weights, bit for bit (CPU). Raises Interrupted
    after Ctrl-C, with the checkpoint saved; ValueError while another process trains there.
    """
    run = Path(out) if out is not None else Path("runs") / recipe.name
    device = device_named(recipe.device.name)
    if recipe.device.threads:
        torch.set_num_threads(recipe.device.threads)
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
    model = build(recipe, splits.train).to(device)
    if recipe.device.channels_last:
        model.to_layout(torch.channels_last)
    state = State(model, sgd(model, recipe), Progress())
    path, mark = run / "checkpoint.safetensors", fingerprint(recipe, ranks.world)
    if path.is_file() and not fresh:
        checkpoint.restore(path, state, mark)
    elif ranks.first:
        write_text(run / "recipe.json", recipe.model_dump_json(indent=1))
    total = recipe.train.epochs * per_epoch
    if recipe.train.max_steps is not None:
        total = min(total, recipe.train.max_steps)
    if recipe.device.compile:
        model.read = torch.compile(model.read, dynamic=True)  # type: ignore[method-assign]
    running = _Run(
        recipe=recipe,
        folder=run,
        state=state,
        step=Step(
            model,
            training_attack(recipe),
            ranks,
            recipe.train.label_smoothing,
            recipe.train.trades,
            attacked_smoothing=recipe.train.attacked_smoothing,
        ),
        attack=training_attack(recipe),
        train_set=train_set,
        watch=Watch(recipe, splits.fit.to(device), epochs=-(-total // per_epoch)),
        mark=mark,
        total=total,
        per_epoch=per_epoch,
        report=report,
    )
    with stoppable() as asked, torch.random.fork_rng(devices=[]):
        running.loop(asked)
    if state.best is not None:
        model.load_state_dict(state.best)
    model.method.finish(model.net)
    trained = Trained(model, recipe, state.progress, splits)
    if ranks.first:
        # Before anything that can fail: training is not lost to its calibration.
        artifact.save(run / "model.safetensors", model, about(trained))
    if recipe.calibrate_dial:
        attack = Attack("pgd", recipe.attack.eps, 10, norm=recipe.attack.norm)
        calibrate_dial(model, subset(splits.fit, 500).to(device), attack)
    if "exit" in model.dials:
        fit_policy(model, splits.fit.to(device), **recipe.policy.model_dump())
    if ranks.first:
        artifact.save(run / "model.safetensors", model, about(trained))
    ranks.wait()
    return trained


def about(trained: Trained) -> artifact.About:
    """What the artifact of a finished run says beside its weights."""
    recipe, progress = trained.recipe, trained.progress
    return artifact.About(
        classes=trained.splits.train.classes,
        threat={"norm": recipe.attack.norm, "eps": recipe.attack.eps},
        provenance={
            "recipe": recipe.model_dump(mode="json"),
            "dataset": recipe.data.name,
            "seconds": round(progress.seconds, 1),
            "best_epoch": progress.best_epoch,
            "flags": progress.flags,
            "versions": artifact.versions(),
        },
    )
