"""Make the controller that a service's policy names."""

from __future__ import annotations

from operator import ge

from rheostat.runtime.choices import check_choice
from rheostat.serve.costs import Costs, ordered
from rheostat.serve.goodput import Goodput
from rheostat.serve.ladder import Steps
from rheostat.serve.policy import CONTROLLERS, Measured, Policy, floor, robustness_of
from rheostat.serve.scheduling import Controller
from rheostat.serve.slack import SlackFit


def useless(allowed: tuple[str, ...], measured: Measured, costs: Costs) -> dict[str, str]:
    """Dominated points: name → another point of the ladder that is as good or better in time and both accuracies.

    The first point, which is preferred, never counts as dominated; nor does a point without both measured accuracies.
    """

    def numbers(name: str) -> tuple[float, float, float]:
        return (float(measured[name]["clean_accuracy"]), robustness_of(measured[name]), -costs[name].typical)

    known = [n for n in allowed if "clean_accuracy" in measured[n]]
    found = {}
    for name in known:
        own = numbers(name)
        better = [o for o in known if numbers(o) != own and all(map(ge, numbers(o), own))]
        if better and name != allowed[0]:
            found[name] = better[0]
    return found


def worth(allowed: tuple[str, ...], measured: Measured) -> dict[str, float]:
    """The value of an answer at each point: the mean of the measured clean and robust accuracy.

    If a point has no clean accuracy, the robust one alone counts; without any measurement every point is worth 1.
    """
    robust = {n: robustness_of(measured[n]) for n in allowed}
    if all("clean_accuracy" in measured[n] for n in allowed):
        return {n: (float(measured[n]["clean_accuracy"]) + robust[n]) / 2 for n in allowed}
    return robust if any(robust.values()) else dict.fromkeys(allowed, 1.0)


def controller(policy: Policy, measured: Measured, costs: Costs) -> Controller:
    """The policy's controller over the points that its floor admits, ordered by measured time if `costs` has any.

    With `goodput` and `slack`, an explicit `min_robust` lets the controller choose freely among all points above it.
    Without one, it chooses freely only among points as robust as the first, and opens the others rarely.
    """
    check_choice("a policy", "controller", policy.controller, CONTROLLERS)
    allowed = floor(policy, measured)
    if all(name in costs for name in allowed):
        worse = useless(allowed, measured, costs)
        allowed = ordered(tuple(n for n in allowed if n not in worse), costs)
    if policy.controller == "steps":
        return Steps(allowed, policy.target_ms)
    robustness = {name: robustness_of(measured[name]) for name in allowed}
    free = robustness[allowed[0]] if policy.min_robust is None else policy.min_robust
    deadline = policy.target_ms / 1e3
    if policy.controller == "slack":
        return SlackFit(allowed, robustness, costs, deadline, free=free)
    return Goodput(allowed, robustness, costs, deadline, free=free, worth=worth(allowed, measured))
