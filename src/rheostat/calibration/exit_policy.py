"""The exit policy: thresholds fitted on calibrate-fit, and anytime prediction.

The functions refuse the test split. (The public code of RDI-Nets sets its thresholds on test, by hand.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rheostat.attacks.multi_exit import equal_shares, most, taken, uncertainty
from rheostat.data import Dataset, to_pixels
from rheostat.methods.exits import ExitCommand, Exits
from rheostat.models.adoption import device_of
from rheostat.models.costs import exit_costs
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.choices import check_choice
from rheostat.runtime.precision import full_precision

RULES = ("equal-shares", "budget", "accuracy")
LIMITS = {"budget": "macs", "accuracy": "accuracy"}
"""The argument of `fit_policy` that a rule needs; the other one has no effect under it."""


@dataclass(frozen=True)
class Fitted:
    """A fitted policy on its images: thresholds, accuracy in [0, 1], mean MACs, and the share of rows per exit."""

    thresholds: tuple[float, ...]
    accuracy: float
    macs: float
    shares: tuple[float, ...]


def _method(model: Tunable) -> Exits:
    found = model.method.part(Exits)
    if found is None:
        raise ValueError("this model has no exits")
    return found


@torch.no_grad()
def stacked(model: Tunable, data: Dataset, point: Point, *, batch: int = 500) -> Tensor:
    """Logits of all exits on a data set, (N, E, K)."""
    out = []
    for first in range(0, len(data), batch):
        x = to_pixels(data.images[first : first + batch])
        at = model.resolve(point.replace(exit=0.0), x).with_(ExitCommand())
        out.append(torch.stack(model.read(x, at).exits, 1))
    return torch.cat(out)


@full_precision()
def fit_policy(
    model: Tunable,
    data: Dataset,
    *,
    rule: str = "equal-shares",
    macs: float | None = None,
    accuracy: float | None = None,
    at: Point | None = None,
) -> Fitted:
    """Fit the thresholds of the exits on calibrate-fit, and store them in the model.

    `rule` is one of:
    "equal-shares": every exit takes the same number of rows.
    "budget": the most accurate policy with at most `macs` MACs per image on average, earlier heads included.
    "accuracy": the cheapest policy whose accuracy is at least `accuracy`.
    The last two search over one level: each side exit gets the largest threshold at which the rows that
    leave there reach that accuracy. At a point of less `depth` only the exits within it are fitted; the
    other thresholds do not change. Raises ValueError on the test split, if no policy meets the limit, or for a limit
    that the rule does not use.
    """
    method = _method(model)
    check_choice("exits", "rule", rule, RULES)
    given = {"macs": macs, "accuracy": accuracy}
    for owner, limit in LIMITS.items():
        value = given[limit]
        if owner == rule and value is None:
            raise ValueError(f"rule {rule!r} needs {limit}")
        if owner != rule and value is not None:
            raise ValueError(
                f"rule {rule!r} does not use {limit}, given {value:g}; leave it out, or use rule {owner!r}"
            )
    data = data.to_choose_on().to(device_of(model))
    point = model.complete(at)
    stack = stacked(model, data, point)
    costs = torch.tensor(exit_costs(model, point).macs, dtype=torch.float64)
    unsure = uncertainty(stack[:, :-1], method.measure)
    right = stack.argmax(-1) == data.labels[:, None]

    def outcome(thresholds: Tensor) -> Fitted:
        exits = taken(unsure, thresholds)
        shares = exits.bincount(minlength=stack.shape[1]).double() / len(exits)
        hits = right[torch.arange(len(exits), device=exits.device), exits]
        return Fitted(
            tuple(thresholds.tolist()),
            float(hits.double().mean()),
            float((shares.cpu() * costs).sum()),
            tuple(shares.tolist()),
        )

    if rule == "equal-shares":
        found = outcome(equal_shares(unsure))
    else:
        top = most(method.measure, stack.shape[-1])
        found = _searched(unsure, right, outcome, top, macs=macs, accuracy=accuracy)
    stored = model.net.get_buffer("thresholds")
    stored[: len(found.thresholds)] = torch.tensor(found.thresholds, device=stored.device)
    return found


def _searched(
    unsure: Tensor,
    right: Tensor,
    outcome: Callable[[Tensor], Fitted],
    top: float,
    *,
    macs: float | None,
    accuracy: float | None,
) -> Fitted:
    """The best policy among 101 accuracy levels and the policy that always uses the last exit."""
    levels = torch.linspace(0.0, 1.0, 101).tolist()
    tried = [outcome(_demanding(unsure, right, level, top)) for level in levels]
    tried.append(outcome(torch.zeros(unsure.shape[1], device=unsure.device)))
    if macs is not None:
        fits = [f for f in tried if f.macs <= macs]
        if not fits:
            least = min(f.macs for f in tried)
            raise ValueError(f"no policy needs at most {macs:g} MACs per image; the cheapest needs {least:g}")
        return max(fits, key=lambda f: f.accuracy)
    fits = [f for f in tried if accuracy is not None and f.accuracy >= accuracy]
    if not fits:
        best = max(f.accuracy for f in tried)
        raise ValueError(f"no policy reaches accuracy {accuracy:g} on these images; the best reaches {best:.4f}")
    return min(fits, key=lambda f: f.macs)


def _demanding(unsure: Tensor, right: Tensor, level: float, top: float) -> Tensor:
    """For each side exit, the largest threshold at which the rows that leave there have accuracy `level` or more."""
    rows = torch.ones(len(unsure), dtype=torch.bool, device=unsure.device)
    found = []
    for k in range(unsure.shape[1]):
        order = unsure[rows, k].argsort()
        sorted_unsure = unsure[rows, k][order]
        hits = right[rows, k][order].double().cumsum(0)
        share = hits / torch.arange(1, len(hits) + 1, device=hits.device)
        good = (share >= level).nonzero()[:, 0]
        if not len(good):
            threshold = unsure.new_tensor(0.0)
        else:
            last = int(good[-1])
            after = sorted_unsure[last + 1] if last + 1 < len(hits) else unsure.new_tensor(top * 1.001)
            threshold = (sorted_unsure[last] + after) / 2
        found.append(threshold)
        rows = rows & ~(unsure[:, k] < threshold)
    return torch.stack(found) if found else unsure.new_zeros(0)


@torch.no_grad()
def anytime(model: Tunable, images: Tensor, point: Point | None = None) -> Iterator[Tensor]:
    """Yield the logits (B, K) of each exit in turn, as soon as they are computed; stop when time is up."""
    method = _method(model)
    at = model.resolve(model.complete(point).replace(exit=0.0), images)
    for _, logits in method.progressive(model.net, images, at):
        yield logits
