"""Policy: which points a server may use, and the least robustness that load can bring it down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from rheostat.runtime.choices import check_choice, nearest
from rheostat.serve.costs import Costs
from rheostat.serve.schema import PolicyBody

SHARE = 0.5
"""Without `min_robust`, the share of its first point's robust accuracy below which a ladder never falls."""

DEFAULT_PASSES = 5
"""Passes of one image at the preferred point that fit into the time to answer where none is given."""
CONTROLLERS = ("goodput", "slack", "steps")
"""How the point of a batch is chosen: by the correct answers in time to expect, by the time its requests have left, or
by steps after late batches."""

Measured = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Policy:
    """What whoever holds the token decides.

    `ladder`: names of points, the one preferred first; later ones are cheaper. `target_ms`: the time from
    the arrival in the queue in which a request should be answered (`goodput`, `slack`), or the wait above which the
    server steps down the ladder (`steps`). `min_robust`: no point whose measured robust accuracy (its lower
    bound where there is one) lies below is ever used; None: `SHARE` of the first point's. Zero allows every
    point, and has to be written down. `controller`: one of `CONTROLLERS`.
    """

    ladder: tuple[str, ...]
    target_ms: float = 50.0
    min_robust: float | None = None
    controller: str = "goodput"


def default_target(preferred: str, costs: Costs) -> float:
    """Milliseconds in which to answer: five passes of one image at the preferred point, and at least 50."""
    return 50.0 if preferred not in costs else max(50.0, round(DEFAULT_PASSES * 1e3 * costs[preferred](1)))


class NotJSON(ValueError):
    """Text that is not JSON at all."""


def parse_policy(found: object) -> Policy:
    """A policy from JSON, as text (str or bytes) or as values; ValueError names what is wrong."""
    try:
        if isinstance(found, str | bytes):
            body = PolicyBody.model_validate_json(found)
        else:
            body = PolicyBody.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise NotJSON("not JSON") from None
        raise ValueError(_sentence(first["type"], first["loc"], first["msg"])) from None
    return Policy(tuple(body.ladder), body.target_ms, body.min_robust, body.controller)


def _sentence(kind: str, where: tuple[int | str, ...], message: str) -> str:
    if not where:
        return "a policy is a JSON object"
    field = str(where[0])[:40]
    if kind == "extra_forbidden":
        return f"a policy has no {field!r}; {nearest(field, PolicyBody.model_fields)}"
    if field == "ladder" and kind in ("missing", "list_type", "string_type"):
        return "ladder is a list of point names"
    return f"{'.'.join(str(p)[:40] for p in where)}: {message[0].lower()}{message[1:200]}"


def validated(policy: Policy, measured: Measured) -> Policy:
    """The policy, if these named points can keep it; ValueError otherwise."""
    if not policy.ladder:
        raise ValueError("a policy names at least one point in its ladder")
    if len(set(policy.ladder)) != len(policy.ladder):
        raise ValueError("a point stands once in a ladder")
    if not 0 < policy.target_ms <= 60000:
        raise ValueError(f"target_ms lies above 0 and up to 60000, given {policy.target_ms:g}")
    if policy.min_robust is not None and not 0 <= policy.min_robust <= 1:
        raise ValueError(f"min_robust is a share from 0 to 1, given {policy.min_robust:g}")
    check_choice("a policy", "controller", policy.controller, CONTROLLERS)
    for name in policy.ladder:
        if name not in measured:
            raise ValueError(f"no point named {name!r}; {nearest(name, measured)}")
    if not floor(policy, measured):
        raise ValueError(f"no point of the ladder has a measured robust accuracy of {least_robust(policy, measured):g}")
    return policy


def robustness_of(numbers: Mapping[str, Any]) -> float:
    """A point's measured robust accuracy for a floor: its lower bound; 0 where none was measured."""
    return float(numbers.get("robust_bound", numbers.get("robust_accuracy", 0.0)))


def least_robust(policy: Policy, measured: Measured) -> float:
    """The robust accuracy below which no point is used: `min_robust`, or `SHARE` of the first point's."""
    if policy.min_robust is not None:
        return policy.min_robust
    return SHARE * robustness_of(measured[policy.ladder[0]])


def floor(policy: Policy, measured: Measured) -> tuple[str, ...]:
    """The points of the ladder that its floor admits, in its order."""
    least = least_robust(policy, measured)
    return tuple(n for n in policy.ladder if robustness_of(measured[n]) >= least)


def strict(policy: Policy, least: float | None) -> Policy:
    """The policy under the floor that the server was started with: ValueError if it asks for a lower one."""
    if least is None:
        return policy
    if policy.min_robust is not None and policy.min_robust < least:
        raise ValueError(
            f"min_robust {policy.min_robust:g} is below {least:g}, with which this server was started; "
            "a policy may be stricter, not weaker"
        )
    return policy if policy.min_robust is not None else replace(policy, min_robust=least)


def settled(given: Policy, stored: Policy | None, measured: Measured) -> tuple[Policy, str]:
    """(the policy a server starts with, a sentence that says why where two were at hand).

    The stored one was set by a token while the server ran, so it holds; but the stricter floor of the two
    always wins, and where no stored point keeps that floor the given policy holds.
    """
    given = validated(given, measured)
    if stored is None or stored == given:
        return given, ""
    least = given.min_robust
    raised = least is not None and (stored.min_robust is None or stored.min_robust < least)
    wanted = replace(stored, min_robust=least) if raised else stored
    try:
        held = validated(wanted, measured)
    except ValueError as error:
        return given, f"the stored policy is not used ({error}); the command line's holds"
    text = (
        f"the stored policy holds, it was set while the server ran: ladder {', '.join(held.ladder)}, "
        f"no point below {least_robust(held, measured):g}"
    )
    if raised:
        text += f"; --min-robust {least:g} of the command line is stricter than its floor and holds too"
    return held, text
