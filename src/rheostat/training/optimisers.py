"""The optimiser and scheduler of a run, from the settings or any of torch's, and how a resumed run restores them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rheostat.models.tunable import Tunable
from rheostat.runtime.choices import nearest
from rheostat.training.schedules import scheduler as own_scheduler
from rheostat.training.settings import Settings
from rheostat.training.step import parameter_groups, sgd

OptimiserGiven = Optimizer | Callable[[list[dict[str, Any]]], Optimizer]
"""An optimiser, or a function that makes one: `lambda groups: torch.optim.AdamW(groups, lr=1e-3)`."""
Scheduler = LRScheduler | ReduceLROnPlateau
SchedulerGiven = Scheduler | Callable[[Optimizer, int], Scheduler]
"""A scheduler, or a function that makes one from the optimiser and the run's number of steps."""


def made_optimiser(given: OptimiserGiven | None, model: Tunable, settings: Settings) -> Optimizer:
    """The run's optimiser over the trained parameters, with allocated gradients.

    ValueError if the model has no parameter to train, if the optimiser holds parameters that are not the model's, or if
    the function returns something else.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "no parameter of this model can be trained, because all have requires_grad=False; set requires_grad=True "
            "on those that should train"
        )
    if given is None:
        return sgd(model, settings)
    groups = parameter_groups(model)
    found = given(groups) if not isinstance(given, Optimizer) and callable(given) else given
    if not isinstance(found, Optimizer):
        raise ValueError(
            f"optimiser must be a torch optimiser or a function of parameter groups that makes one, given {found!r}"
        )
    if isinstance(found, LBFGS):
        raise ValueError("LBFGS evaluates the loss several times per step; use an optimiser that needs only gradients")
    names = {id(p) for p in model.parameters()}
    held = [p for group in found.param_groups for p in group["params"]]
    if any(id(p) not in names for p in held) or not held:
        raise ValueError(
            "the optimiser holds parameters that are not the model's; make it from the trained model, or give "
            "a function: optimiser=lambda groups: torch.optim.AdamW(groups, lr=1e-3)"
        )
    return found


def made_scheduler(
    given: SchedulerGiven | None,
    optimiser: Optimizer,
    settings: Settings,
    *,
    total: int,
    per_epoch: int,
    done: int,
    epochs: Sequence[Mapping[str, Any]],
) -> Scheduler:
    """The run's scheduler after `done` of `total` steps; a user's scheduler is stepped until it gets there.

    A scheduler that is given as an object may have made some of these steps already, if the run continues in the
    process that began it; ValueError if it has made more. In a run that continues, a function makes one
    from the optimiser's first rates. A torch scheduler steps after every training step; `ReduceLROnPlateau` steps after
    every scored epoch, with the validation score (mode "max") or the training loss (mode "min").
    """
    if given is None:
        return own_scheduler(optimiser, settings, total, per_epoch=per_epoch, done=done)
    found: Any = given
    if made := callable(given) and not isinstance(given, LRScheduler):
        if done:
            _first_rates(optimiser)
        found = given(optimiser, total)
    if not isinstance(found, LRScheduler):
        raise ValueError(
            f"scheduler must be a torch scheduler or a function (optimiser, steps) that makes one, given {found!r}"
        )
    if found.optimizer is not optimiser:
        raise ValueError("the scheduler belongs to another optimiser than the run's; give both, or a function")
    scored = [line for line in epochs if line["score"] >= 0]
    due = len(scored) if isinstance(found, ReduceLROnPlateau) else done
    before = 0 if made else _steps_of(found)
    if before > due:
        raise ValueError(
            f"the scheduler has made {before} steps, but the run is at {due}; give a new scheduler of a new optimiser, "
            "or a function (optimiser, steps) that makes one"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns because the optimiser's steps ran in another process
        for number in range(before, due):
            if isinstance(found, ReduceLROnPlateau):
                after_epoch(found, scored[number])
            else:
                found.step()
    return found


def _first_rates(optimiser: Optimizer) -> None:
    """Set every group's rate to its first one, from which a new scheduler starts."""
    for group in optimiser.param_groups:
        first = group.setdefault("initial_lr", group["lr"])
        group["lr"] = copy.deepcopy(first)  # a rate may be a tensor


def _steps_of(scheduler: Any) -> int:
    """How many steps a scheduler has made; a ChainedScheduler does not count them, but its parts do."""
    return scheduler.last_epoch if hasattr(scheduler, "last_epoch") else _steps_of(scheduler._schedulers[0])


def after_step(scheduler: Scheduler) -> None:
    """Step the scheduler after a training step."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()


def after_epoch(scheduler: Scheduler, line: Mapping[str, Any]) -> None:
    """Step the scheduler after an epoch, if it works per epoch."""
    if isinstance(scheduler, ReduceLROnPlateau) and line["score"] >= 0:
        scheduler.step(line["score"] if scheduler.mode == "max" else line["loss"])


def frozen(model: nn.Module, patterns: Iterable[str]) -> list[nn.Parameter]:
    """The parameters that match names or patterns (`net.blocks.0.*`); a prefix matches everything below it.

    ValueError for a pattern that matches nothing, or if all parameters would be frozen.
    """
    names = dict(model.named_parameters())
    found: dict[str, nn.Parameter] = {}
    for pattern in patterns:
        hits = {n: p for n, p in names.items() if fnmatchcase(n, pattern) or n.startswith(f"{pattern}.")}
        if not hits:
            modules = [n for n, _ in model.named_modules() if n]
            raise ValueError(f"freeze: {pattern!r} matches no parameter; {_nearest_few(pattern, [*modules, *names])}")
        found |= hits
    if found and len(found) == len(names):
        raise ValueError("freeze: nothing is left to train")
    return list(found.values())


def _nearest_few(given: str, names: list[str]) -> str:
    hint, _, _ = nearest(given, names).partition("allowed:")
    return f"{hint}there are {len(names)} names, {', '.join(names[:5])} …"
