"""Successive halving of a search's trials, decided from their scores alone.

Optuna's own pruner keeps its decisions in the trials. A trial that died and was trained again then competes with its
own remains, so a killed search stops other trials than one that nothing killed. Source: Li et al., "A system for
massively parallel hyperparameter tuning" (MLSys 2020).
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

REDUCTION = 2
"""One trial in this many continues after each rung."""


class Halving(optuna.pruners.BasePruner):
    """A trial continues after a rung if its score is among the best half of the scores there.

    The rungs are the epochs 1, 2, 4, …, or the first scored epoch after each. Failed trials do not take part. A trial
    whose rung only it has reached continues.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or first_at(trial, rung(step)) != step:
            return False
        scores = [trial.intermediate_values[step]]
        for other in study.get_trials(deepcopy=False):
            place = first_at(other, rung(step))
            if other.number != trial.number and other.state is not TrialState.FAIL and place is not None:
                scores.append(other.intermediate_values[place])
        last = sorted(scores, reverse=True)[max(len(scores) // REDUCTION, 1) - 1]
        return scores[0] < last


def rung(step: int) -> int:
    """The rung of an epoch from 1 on: 0 for 1, 1 for 2 and 3, 2 for 4 to 7, …"""
    return step.bit_length() - 1


def first_at(trial: FrozenTrial, place: int) -> int | None:
    """The first scored epoch of a trial at a rung; None if it has not reached it."""
    return min((step for step in trial.intermediate_values if rung(step) == place), default=None)
