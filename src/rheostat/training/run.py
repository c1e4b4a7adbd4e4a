"""A run in progress: one step, the end of an epoch, and the loop over them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheostat.attacks import Attack
from rheostat.models.tunable import Tunable
from rheostat.runtime.files import write_text
from rheostat.runtime.interrupts import Interrupted
from rheostat.runtime.precision import low_precision, resolved
from rheostat.runtime.seeding import seed_global, seed_of, stream
from rheostat.training import checkpoint
from rheostat.training.attacks import OwnAttack
from rheostat.training.averaging import follow, updated
from rheostat.training.callbacks import call
from rheostat.training.checkpoint import State
from rheostat.training.early_size import sized
from rheostat.training.feed import Feed
from rheostat.training.optimisers import Scheduler, after_epoch, after_step
from rheostat.training.selection import Watch
from rheostat.training.settings import Settings
from rheostat.training.step import NonFinite, Step, warmed

Report = Callable[[dict[str, Any]], None]


def step_precision(settings: Settings, device: torch.device) -> AbstractContextManager[object]:
    """The scope of one training step: bf16 autocast if the settings ask for it."""
    return nullcontext() if resolved(settings.device.precision, device) == "fp32" else low_precision(device)


@dataclass
class TrainingRun:
    """A run in progress, with everything that the loop needs."""

    settings: Settings
    folder: Path
    state: State
    step: Step
    attack: Attack | OwnAttack
    feed: Feed
    watch: Watch
    scheduler: Scheduler
    mark: str
    total: int
    callbacks: Sequence[object]
    report: Report | None

    @property
    def model(self) -> Tunable:
        """The model in training."""
        return self.step.model

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.feed.per_epoch

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of all epochs so far."""
        return self.state.progress.epochs

    def stop(self, why: str) -> None:
        """End the training after this step; the model is then calibrated and saved as usual."""
        self.state.progress.stopped = why or "a callback stopped it"

    def save(self) -> None:
        """Write the checkpoint. If a weight is infinite or NaN: ValueError, and the previous checkpoint stays."""
        for name, parameter in self.state.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise self._stopped(f"{name} holds a weight that is infinite or NaN", self.state.progress.step)
        if self.step.ranks.first:
            path = self.folder / "checkpoint.safetensors"
            checkpoint.save(path, self.state, self.mark, ranks=self.step.ranks.world)

    def _stopped(self, problem: str, step: int) -> NonFinite:
        """The error that ends a diverged run; it says where it diverged and what to do."""
        rate = self.state.optimiser.param_groups[0]["lr"]
        return NonFinite(
            f"training diverged at step {step + 1} of {self.total}, learning rate {rate:g}: {problem}. The last good "
            f"checkpoint is kept in {self.folder}; train with a lower train.lr, a train.clip, or precision fp32"
        )

    def one_step(self, incoming: Iterator[tuple[Tensor, Tensor]]) -> float:
        """Run one step: batch, attacks, passes, update, the method's hook, the weight average.

        Returns the loss of the whole batch.
        """
        state, t, rank = self.state, self.settings.train, self.step.ranks.rank
        progress, model = state.progress, self.model
        number = progress.step
        # The optimiser's own zero_grad would leave the gradients of parameters that a user's optimiser does not hold.
        model.zero_grad(set_to_none=False)
        self.step.attack = warmed(self.attack, self.settings, number, self.total)
        self.step.awp = t.awp if number >= t.awp_from * self.total else 0.0
        found: dict[str, float] = {}
        for part in range(self.feed.parts):
            of_part = (part,) if self.feed.parts > 1 else ()
            images, labels = next(incoming)
            images = sized(images, t, number / self.total)
            terms = model.method.plan(self.feed.piece, stream(t.seed, "plan", number, *of_part))
            seed_global(seed_of(t.seed, "dropout", number, rank, *of_part), images.device)
            # Only the step runs under autocast; evaluations use full precision.
            try:
                with step_precision(self.settings, images.device):
                    sums = self.step.backward(
                        terms, images, labels, batch=self.feed.piece, seed=(t.seed, "step", number, *of_part)
                    )
            except NonFinite as problem:
                raise self._stopped(str(problem), number) from None
            for key, value in sums.items():
                found[key] = found.get(key, 0.0) + value
        self.step.ranks.sum_gradients(model.parameters())
        if t.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t.clip)
        state.optimiser.step()
        after_step(self.scheduler)
        progress.step = number + 1
        model.method.after_step(model.net, progress.step / self.total)
        if t.ema is not None:
            state.average = updated(state.average, model, t.ema, progress.step)
        found = self._summed(found)
        for key, value in found.items():
            progress.running[key] = progress.running.get(key, 0.0) + value
        return found["loss"]

    def end_epoch(self) -> None:
        """Score on calibrate-fit, keep the best weights, and write the line of metrics."""
        state, ranks = self.state, self.step.ranks
        progress, model = state.progress, self.model
        epoch = -(-progress.step // self.per_epoch)
        model.method.after_epoch(model.net, progress.step / self.total)
        sums, progress.running = progress.running, {}
        steps = progress.step - (epoch - 1) * self.per_epoch
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": progress.step,
            "loss": sums["loss"] / max(steps, 1),
            "train_clean_accuracy": sums["clean"] / max(sums["clean_n"], 1),
            "train_robust_accuracy": sums["robust"] / max(sums["robust_n"], 1),
            "seconds": round(progress.seconds, 1),
        }
        scored, weights = self._scored(epoch)
        line |= scored
        # A flag stays raised: the run has the flags of all its epochs.
        progress.flags = sorted({*progress.flags, *self.watch.flags(progress.epochs, line)})
        line["flags"] = progress.flags
        progress.epochs.append(line)
        after_epoch(self.scheduler, line)
        self._select(epoch, scored, weights)
        if ranks.first:
            text = "".join(json.dumps(e) + "\n" for e in progress.epochs)
            write_text(self.folder / "metrics.jsonl", text)
            call(self.callbacks, "on_epoch", self, line)
        if self.report is not None and ranks.first:
            self.report({"event": "epoch", "epochs": self.settings.train.epochs, **line})

    def _select(self, epoch: int, scored: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Keep the weights if they are the best so far.

        Weights of an epoch in the tail always replace those of an earlier epoch, which are kept in case a callback
        stops the run before the tail.
        """
        progress, watch = self.state.progress, self.watch
        now = (watch.may_select(epoch), scored["score"])
        if scored["score"] >= 0 and now > (watch.may_select(progress.best_epoch), progress.best_score):
            progress.best_score, progress.best_epoch = scored["score"], epoch
            self.state.best = {k: v.detach().clone() for k, v in weights.items()}

    def _scored(self, epoch: int, *, always: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The score of the last weights or of their average, whichever is higher, and those weights.

        Where the rate falls to 0, there is little left to average, and an average lags behind the last weights. With
        `always` they are scored in an epoch that `select.every` leaves out, too.
        """
        model, average = self.model, self.state.average
        scored = self.watch.score(model, epoch, always=always)
        if average is None:
            return scored, model.state_dict()
        follow(average, model)  # masks may have changed after the last step
        if scored["score"] < 0:  # an epoch that is not scored
            return scored, average
        last = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(average)
        of_average = self.watch.score(model, epoch, always=always)
        model.load_state_dict(last)
        if of_average["score"] >= scored["score"]:
            return of_average | {"weights": "average"}, average
        return scored | {"weights": "last"}, last

    def _summed(self, sums: dict[str, float]) -> dict[str, float]:
        """The sums over the ranks, at each step, because the first rank's checkpoint is continued by all of them."""
        if self.step.ranks.world == 1:
            return sums
        keys = sorted(sums)
        total = self.step.ranks.sum(torch.tensor([sums[k] for k in keys], dtype=torch.float64))
        return dict(zip(keys, total.tolist(), strict=True))

    def loop(self, received: list[int]) -> None:
        """Train to the last step, or until a rank is asked to stop; then write the checkpoint."""
        progress, ranks = self.state.progress, self.step.ranks
        started, saved = time.monotonic() - progress.seconds, time.monotonic()
        incoming = self.feed.pieces(progress.step)
        while progress.step < self.total and not progress.stopped:
            loss = self.one_step(incoming)
            progress.seconds = time.monotonic() - started
            ended = progress.step % self.per_epoch == 0 or progress.step == self.total
            self._tell(loss)
            due = time.monotonic() - saved > self.settings.train.checkpoint_seconds
            # Under torchrun this is the second reduction that a step waits for, after that of its sums, on which the
            # callbacks may have stopped the run: every rank must know before the next step, or it would wait for ever.
            stopped, stop, due = ranks.agreed(bool(progress.stopped), bool(received), due)
            ended = ended or stopped
            if ended:
                self.end_epoch()
                stopped, stop = ranks.agreed(bool(progress.stopped), bool(received))
            if stopped:
                self._stop()
            if ended or due or stop:
                self.save()
                saved = time.monotonic()
            if stop and progress.step < self.total:
                raise Interrupted(
                    f"stopped after step {progress.step} of {self.total}; the checkpoint in {self.folder} is saved, "
                    "and the same command continues"
                )

    def _stop(self) -> None:
        """End the run here, on every rank. If no epoch was scored yet, the weights are scored now, and kept."""
        progress = self.state.progress
        progress.stopped = progress.stopped or "the first rank stopped it"
        if self.state.best is None:
            epoch = -(-progress.step // self.per_epoch)
            self._select(epoch, *self._scored(epoch, always=True))

    def _tell(self, loss: float) -> None:
        """Report a step, and call the callbacks."""
        if not self.step.ranks.first:
            return
        progress = self.state.progress
        here = {"step": progress.step, "total": self.total, "seconds": progress.seconds}
        if self.report is not None:
            mean = progress.running["loss"] / ((progress.step - 1) % self.per_epoch + 1)
            self.report({"event": "step", **here, "mean_loss": mean, **progress.running})
        if self.callbacks:
            rate = self.state.optimiser.param_groups[0]["lr"]
            call(self.callbacks, "on_step", self, {**here, "loss": loss, "lr": rate})
