"""Policy: which points a server may use, and the robustness floor that it keeps under any load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from rheostat.runtime.choices import check_choice, nearest
from rheostat.serve.costs import Costs
from rheostat.serve.schema import PolicyBody, StoredPolicy

SHARE = 0.5
"""Without `min_robust`, the floor is this share of the robust accuracy of the ladder's first point."""

DEFAULT_PASSES = 5
"""The default target time is that of this many single-image passes at the preferred point."""
CONTROLLERS = ("goodput", "slack", "steps")
"""How the server chooses a batch's point: by expected correct answers in time, by the time left to its requests, or by
steps after late batches."""

Measured = Mapping[str, Mapping[str, Any]]
Body = TypeVar("Body", bound=PolicyBody)


@dataclass(frozen=True)
class Policy:
    """The rules by which the server chooses points. Only holders of a policy token may change them.

    `ladder` names the points, the preferred one first and cheaper ones after it. `target_ms` is the time from arrival
    in the queue to the answer (`goodput`, `slack`), or the wait above which the server steps down the ladder (`steps`).
    `min_robust` is the floor: the server never uses a point whose measured robust accuracy (its lower bound, if there
    is one) is below it. None means `SHARE` of the first point's; an explicit 0 allows every point. `controller` is one
    of `CONTROLLERS`.
    """

    ladder: tuple[str, ...]
    target_ms: float = 50.0
    min_robust: float | None = None
    controller: str = "goodput"


def default_target(preferred: str, costs: Costs) -> float:
    """The default target in milliseconds: five single-image passes at the preferred point, and at least 50 ms."""
    return 50.0 if preferred not in costs else max(50.0, round(DEFAULT_PASSES * 1e3 * costs[preferred](1)))


class NotJSON(ValueError):
    """The text is not JSON."""


def parse_policy(found: object) -> Policy:
    """Parse a policy from JSON text (str or bytes) or from parsed values; ValueError names the mistake."""
    return _policy(_parsed(found, PolicyBody))


def parse_stored(found: object) -> tuple[Policy, str | None]:
    """As `parse_policy`, for a policy as it is stored: (policy, hash of its model, or None if it names none)."""
    body = _parsed(found, StoredPolicy)
    return _policy(body), body.artifact


def _policy(body: PolicyBody) -> Policy:
    return Policy(tuple(body.ladder), body.target_ms, body.min_robust, body.controller)


def _parsed(found: object, kind: type[Body]) -> Body:
    try:
        if isinstance(found, str | bytes):
            return kind.model_validate_json(found)
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise NotJSON("not JSON") from None
        raise ValueError(_sentence(first["type"], first["loc"], first["msg"])) from None


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
    """Return the policy if it is valid for these named points; ValueError otherwise."""
    if not policy.ladder:
        raise ValueError("a policy must name at least one point in its ladder")
    if len(set(policy.ladder)) != len(policy.ladder):
        raise ValueError("a ladder must name each point once")
    if not 0 < policy.target_ms <= 60000:
        raise ValueError(f"target_ms must be above 0 and at most 60000, given {policy.target_ms:g}")
    if policy.min_robust is not None and not 0 <= policy.min_robust <= 1:
        raise ValueError(f"min_robust must be from 0 to 1, given {policy.min_robust:g}")
    check_choice("a policy", "controller", policy.controller, CONTROLLERS)
    for name in policy.ladder:
        if name not in measured:
            raise ValueError(f"no point named {name!r}; {nearest(name, measured)}")
    if not floor(policy, measured):
        raise ValueError(f"no point of the ladder has a measured robust accuracy of {least_robust(policy, measured):g}")
    return policy


def robustness_of(numbers: Mapping[str, Any]) -> float:
    """The robust accuracy that counts against a floor: the lower bound if there is one; 0 if none was measured."""
    return float(numbers.get("robust_bound", numbers.get("robust_accuracy", 0.0)))


def least_robust(policy: Policy, measured: Measured) -> float:
    """The floor as a robust accuracy: `min_robust`, or `SHARE` of the first point's."""
    if policy.min_robust is not None:
        return policy.min_robust
    return SHARE * robustness_of(measured[policy.ladder[0]])


def floor(policy: Policy, measured: Measured) -> tuple[str, ...]:
    """The points of the ladder that the floor admits, in the ladder's order."""
    least = least_robust(policy, measured)
    return tuple(n for n in policy.ladder if robustness_of(measured[n]) >= least)


def _raised(policy: Policy, least: float | None, measured: Measured) -> Policy:
    """The policy with a floor of at least `least`: a floor that is not written counts as `least_robust` says."""
    below = least is not None and least_robust(policy, measured) < least
    return replace(policy, min_robust=least) if below else policy


def strict(policy: Policy, least: float | None, *, measured: Measured) -> Policy:
    """The valid policy under the floor that the server was started with; ValueError if the policy sets a lower one.

    A policy without `min_robust` keeps its own floor where that is the stricter one.
    """
    policy = validated(policy, measured)
    held = _raised(policy, least, measured)
    if held is not policy and policy.min_robust is not None:
        raise ValueError(
            f"min_robust {policy.min_robust:g} is below {held.min_robust:g}, the floor that this server was started "
            "with; a policy may be stricter, not weaker"
        )
    return validated(held, measured)


def settled(
    given: Policy, stored: Policy | None, measured: Measured, *, check: Callable[[Policy], object] = lambda policy: None
) -> tuple[Policy, str]:
    """Return (the policy that the server starts with, a sentence that explains a choice between two).

    The stored policy was set with a token while the server ran, so it overrides the given one. The stricter floor of
    the two always applies; if no point of the stored ladder meets it, the given policy applies. So it does if `check`
    raises ValueError for the stored one, such as a policy whose controller cannot run here.
    """
    given = validated(given, measured)
    if stored is None or stored == given:
        return given, ""
    try:
        held = validated(_raised(validated(stored, measured), given.min_robust, measured), measured)
        check(held)
    except ValueError as error:
        return given, f"the stored policy is not used ({error}); the command line's policy applies"
    text = (
        f"the stored policy applies, because it was set while the server ran: ladder {', '.join(held.ladder)}, "
        f"no point below {least_robust(held, measured):g}"
    )
    if held != stored:
        text += f"; --min-robust {given.min_robust:g} of the command line is stricter than its floor and applies too"
    return held, text
