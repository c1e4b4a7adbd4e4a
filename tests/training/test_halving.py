"""Successive halving: which trials continue, and that a killed trial does not compete with its remains."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from rheostat.training.halving import Halving, rung


def study(folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", direction="maximize", pruner=Halving())


def told(search: optuna.Study, scores: dict[int, float], state: str = "COMPLETE") -> None:
    trial = search.ask()
    for epoch, score in scores.items():
        trial.report(score, epoch)
    done = optuna.trial.TrialState[state]
    search.tell(trial, max(scores.values()) if state == "COMPLETE" else None, state=done)


def stops(search: optuna.Study, scores: dict[int, float]) -> bool:
    trial = search.ask()
    for epoch, score in scores.items():
        trial.report(score, epoch)
    found = trial.should_prune()
    search.tell(trial, state=optuna.trial.TrialState.FAIL)
    return found


def test_the_better_half_continues(tmp_path: Path) -> None:
    search = study(tmp_path)
    assert not stops(search, {1: 0.1})
    for score in (0.2, 0.4, 0.6):
        told(search, {1: score, 2: score + 0.1})
    assert not stops(search, {1: 0.5})
    assert stops(search, {1: 0.3})
    assert not stops(search, {1: 0.3, 2: 0.65})
    assert stops(search, {1: 0.9, 2: 0.45})


def test_epochs_between_rungs_are_not_judged(tmp_path: Path) -> None:
    search = study(tmp_path)
    told(search, {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8})
    assert not stops(search, {1: 0.6, 2: 0.7, 3: 0.1})
    assert stops(search, {1: 0.6, 2: 0.7, 3: 0.75, 4: 0.76})


def test_the_first_scored_epoch_of_a_rung_counts(tmp_path: Path) -> None:
    search = study(tmp_path)
    told(search, {3: 0.5, 6: 0.7})
    assert stops(search, {3: 0.4})
    assert stops(search, {3: 0.6, 6: 0.65})
    assert not stops(search, {3: 0.6, 6: 0.65, 7: 0.1})


def test_failed_trials_do_not_compete(tmp_path: Path) -> None:
    search = study(tmp_path)
    told(search, {1: 0.3})
    told(search, {1: 0.9}, "FAIL")
    assert not stops(search, {1: 0.4})
    told(search, {1: 0.9}, "PRUNED")
    assert stops(search, {1: 0.4})


@pytest.mark.parametrize(("epoch", "expected"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3)])
def test_rungs_are_powers_of_two(epoch: int, expected: int) -> None:
    assert rung(epoch) == expected
