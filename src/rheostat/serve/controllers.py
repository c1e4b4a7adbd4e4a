"""The controllers of a service by name, made from its policy."""

from __future__ import annotations

from rheostat.runtime.choices import check_choice
from rheostat.serve.costs import Costs, ordered
from rheostat.serve.ladder import Steps
from rheostat.serve.policy import CONTROLLERS, Measured, Policy, floor, robustness_of
from rheostat.serve.scheduling import Controller
from rheostat.serve.slack import SlackFit


def controller(policy: Policy, measured: Measured, costs: Costs) -> Controller:
    """The policy's controller over the points that its floor admits, ordered by their times where there are some.

    With `slack`, a floor that is written down says which points the choice is free among; without one
    only points as robust as the first are free, and the others are opened seldom.
    """
    check_choice("a policy", "controller", policy.controller, CONTROLLERS)
    allowed = floor(policy, measured)
    if all(name in costs for name in allowed):
        allowed = ordered(allowed, costs)
    if policy.controller == "steps":
        return Steps(allowed, policy.target_ms)
    robustness = {name: robustness_of(measured[name]) for name in allowed}
    free = robustness[allowed[0]] if policy.min_robust is None else policy.min_robust
    return SlackFit(allowed, robustness, costs, policy.target_ms / 1e3, free=free)
