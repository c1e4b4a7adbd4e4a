"""A search over recipes: Optuna trials with successive halving, scored on calibrate-fit only.

Each trial is a run in its own folder, so a killed search continues its unfinished trials at their last step. The study
is in a database; workers that name the same database share it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rheostat.data import DataError
from rheostat.runtime.distributed import device_named
from rheostat.runtime.files import Taken, alone, write_text
from rheostat.runtime.interrupts import Interrupted
from rheostat.runtime.seeding import seed_of
from rheostat.training.loop import train
from rheostat.training.recipe import Recipe
from rheostat.training.space import Space, as_toml

if TYPE_CHECKING:
    import optuna

Report = Callable[[dict[str, Any]], None]
HEARTBEAT = 60
"""Seconds between heartbeats of a worker; a worker without a heartbeat for three times as long counts as dead."""
ENDED = ("COMPLETE", "PRUNED")


@dataclass(frozen=True)
class Found:
    """The results of a search so far: the best trial's recipe and score on calibrate-fit, and one row per trial."""

    recipe: Recipe
    score: float
    trials: tuple[dict[str, Any], ...]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError("a search needs Optuna: pip install 'rheostat[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def study_name(space: Space) -> str:
    """A name that depends on the recipe and the space, so that a study never mixes two searches."""
    ranges = {k: r.model_dump() for k, r in space.ranges.items()}
    recipe = space.recipe.model_dump(mode="json")
    if recipe["select"]["loss"] == "ce":  # studies from before this option keep their names
        del recipe["select"]["loss"]
    text = json.dumps([recipe, ranges], sort_keys=True)
    return f"{space.recipe.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue a trial that was cut off again, with the same values and the same run folder."""
    study.enqueue_trial(trial.params, user_attrs={"run": trial.number, **trial.user_attrs})


def open_study(space: Space, storage: str) -> optuna.Study:
    """Open the study of a search in a database (`sqlite:///FILE`, or a server's URL), or create it."""
    optuna = _optuna()
    from rheostat.training.halving import Halving

    try:
        kept = optuna.storages.RDBStorage(
            storage, heartbeat_interval=HEARTBEAT, grace_period=3 * HEARTBEAT, heartbeat_stale_trial_callback=_again
        )
    except Exception as error:  # SQLAlchemy and each driver raise their own errors
        raise ValueError(f"cannot open the study's database {storage.split('@')[-1]}: {error}") from None
    return optuna.create_study(
        storage=kept,
        study_name=study_name(space),
        direction=optuna.study.StudyDirection.MAXIMIZE,
        load_if_exists=True,
        pruner=Halving(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's warning that heartbeats are experimental; our tests cover their use."""
    import warnings

    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class Search:
    """One worker of a search: it trains trials in `out` until the study has enough finished ones."""

    def __init__(
        self, space: Space, out: Path, *, seed: int = 0, data_dir: Path | None = None, report: Report | None = None
    ) -> None:
        self.space, self.out, self.seed, self.data_dir, self.report = space, out, seed, data_dir, report
        self.trial: int | None = None
        """The number of the trial in progress."""

    def one(self, trial: optuna.Trial) -> float:
        """Train one trial and return the score of its kept weights."""
        optuna = _optuna()
        self.trial = trial.number
        self._seed(trial)
        number = trial.user_attrs.get("run", trial.number)
        trial.set_user_attr("run", number)
        trial.set_user_attr("worker", str(self.out.resolve()))
        folder, before = self.out / f"trial-{number}", 0
        try:
            recipe = self.space.changed({**self.space.suggest(trial), "calibrate_dial": False})
        except ValueError as problem:  # an invalid combination of values
            trial.set_user_attr("note", str(problem))
            raise optuna.TrialPruned from None
        for line in _metrics(folder):
            if line["score"] >= 0:
                trial.report(line["score"], line["epoch"])
                before = line["epoch"]
        if 0 < before < recipe.train.epochs and trial.should_prune():  # it was killed before it was judged there
            trial.set_user_attr("note", f"stopped after epoch {before}")
            raise optuna.TrialPruned

        def watch(event: dict[str, Any]) -> None:
            if self.report is not None:
                self.report({**event, "trial": number})
            if event["event"] == "epoch" and event["score"] >= 0:
                trial.report(event["score"], event["epoch"])
                if event["epoch"] < recipe.train.epochs and trial.should_prune():
                    trial.set_user_attr("note", f"stopped after epoch {event['epoch']}")
                    raise optuna.TrialPruned

        try:
            trained = train(recipe, out=folder, folder=self.data_dir, report=watch)
        except (Taken, DataError):  # the folder or the images, not the values of this trial
            raise
        except (ValueError, torch.OutOfMemoryError) as problem:
            trial.set_user_attr("note", str(problem).partition("\n")[0])
            raise optuna.TrialPruned from None
        trial.set_user_attr("seconds", round(trained.progress.seconds, 1))
        return trained.progress.best_score

    def _seed(self, trial: optuna.Trial) -> None:
        """Give the trial's sampler a seed of its own, so that a resumed search draws the same values.

        A trial that was queued again does not count, because it has the values of an earlier one. A trial that failed
        otherwise counts: its values would fail in the next call too.
        """
        optuna = _optuna()
        known = trial.study.get_trials(deepcopy=False)
        again = sum(t.user_attrs.get("run", t.number) != t.number for t in known if t.number <= trial.number)
        place = trial.number - again
        trial.study.sampler = optuna.samplers.TPESampler(
            seed=seed_of(self.seed, "trial", place) % 2**32, n_startup_trials=4
        )

    def run(self, study: optuna.Study, trials: int) -> None:
        """Work until all workers together have finished `trials` trials. Interrupted after Ctrl-C; nothing is lost."""
        optuna = _optuna()
        states = [optuna.trial.TrialState[name] for name in ENDED]
        if self.report is not None:
            ended = len(study.get_trials(deepcopy=False, states=states))
            self.report({"event": "search", "ended": ended, "trials": trials})
        with alone(self.out):
            for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
                if trial.user_attrs.get("worker") == str(self.out.resolve()):
                    # No other process holds this folder, so the worker that ran this trial has died.
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    _again(study, trial)
            while len(study.get_trials(deepcopy=False, states=states)) < trials:
                self.trial = None
                try:
                    study.optimize(self.one, n_trials=1, callbacks=[self._ended])
                except (Interrupted, KeyboardInterrupt) as stop:
                    if self.trial is not None and study.trials[self.trial].state is optuna.trial.TrialState.FAIL:
                        _again(study, study.trials[self.trial])
                    raise Interrupted(f"the search stopped; the same command continues it ({stop})") from None

    def _ended(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        folder = self.out / f"trial-{trial.user_attrs.get('run', trial.number)}"
        if trial.state.name == "PRUNED":  # its metrics stay; its weights are no longer needed
            for name in ("checkpoint.safetensors", "model.safetensors"):
                (folder / name).unlink(missing_ok=True)
        if self.report is not None:
            self.report({"event": "trial", **trial_row(trial)})


def _metrics(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def trial_row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """A trial as plain values: number, state, score, seconds, a note, and its value for every key."""
    scores = [v for _, v in sorted(trial.intermediate_values.items())]
    return {
        "trial": trial.user_attrs.get("run", trial.number),
        "state": trial.state.name.lower(),
        "score": trial.value if trial.state.name == "COMPLETE" else (max(scores) if scores else None),
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": trial.user_attrs.get("seconds"),
        "note": trial.user_attrs.get("note", ""),
        **values_of(trial),
    }


def values_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """A trial's value for every key; the study stores choices as JSON."""
    return {k: json.loads(v) if isinstance(v, str) else v for k, v in trial.params.items()}


def tune(
    space: Space,
    *,
    trials: int,
    out: str | Path,
    storage: str | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    report: Report | None = None,
) -> Found:
    """Search the space; return the best recipe by its score on calibrate-fit (`select` of the recipe).

    `out` holds one folder per trial, `trials.jsonl`, and `best.toml`, a recipe to train. `storage` is a database URL,
    by default SQLite in `out`. The same call continues a killed search and does nothing for a finished one. The search
    never sees test images.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    device_named(space.recipe.device.name)  # a machine that lacks it would count every trial as the worst
    with _quiet():
        study = open_study(space, storage or f"sqlite:///{(folder / 'study.db').resolve()}")
        Search(space, folder, seed=seed, data_dir=data_dir, report=report).run(study, trials)
        ended = [t for t in study.get_trials(deepcopy=False) if t.state.name in ENDED]
    rows = tuple(sorted((trial_row(t) for t in ended), key=lambda r: -(r["score"] or 0.0)))
    whole = [t for t in ended if t.state.name == "COMPLETE"]
    if not whole:
        raise ValueError(f"none of {len(ended)} trials finished; {ended[0].user_attrs.get('note', '')}")
    best = max(whole, key=lambda t: float(t.value or 0.0))
    recipe = space.changed(values_of(best))
    write_text(folder / "trials.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(folder / "best.toml", as_toml(recipe))
    return Found(recipe, float(best.value or 0.0), rows)


def forget(out: str | Path) -> None:
    """Delete a search: its study, if it is in `out`, and the folders of its trials; ValueError while one is running."""
    folder = Path(out)
    with alone(folder):
        for trial in folder.glob("trial-*"):
            shutil.rmtree(trial)
        for name in ("study.db", "trials.jsonl", "best.toml"):
            (folder / name).unlink(missing_ok=True)
