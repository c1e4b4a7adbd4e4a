"""The ladder: down fast but seldom, up when it is calm, never below the floor."""

from __future__ import annotations

import pytest
from fakes import MEASURED, TOKEN

from rheostat.serve.ladder import DOWN_A_MINUTE, DOWN_AFTER, DWELL, LATE_FOR, UP_AFTER, Ladder
from rheostat.serve.options import Options, check_host
from rheostat.serve.policy import Policy, floor, parse_policy, validated


def test_the_ladder_goes_down_fast_and_up_slowly() -> None:
    ladder = Ladder(("safe", "balanced", "fast"), 50)
    for _ in range(DOWN_AFTER):
        assert ladder.observe(80, 0) == 0
    assert ladder.observe(80, LATE_FOR) == 1
    assert ladder.name == "balanced"
    begun = LATE_FOR + 1
    assert ladder.observe(30, begun) == 0  # neither late nor calm: the calm starts anew
    assert ladder.observe(5, begun) == 0
    assert ladder.observe(5, begun + UP_AFTER - 0.01) == 0
    assert ladder.observe(5, begun + UP_AFTER) == -1
    assert ladder.name == "safe"


def test_load_moves_the_ladder_seldom() -> None:
    """Three connections held a server at its weakest point within 0.2 s."""
    ladder = Ladder(("safe", "balanced", "fast"), 50)
    for i in range(1000):
        ladder.observe(80, 0.2 * i / 1000)
    assert ladder.name == "safe"
    now, steps = 1.0, []
    while now < 1 + DWELL:
        steps += [now] if ladder.observe(80, now) else []
        now += 0.01
    assert len(steps) == 1
    ladder = Ladder(("safe", "fast"), 50)
    downs = 0
    for i in range(5900):
        # Late for a second, calm for as long as it takes to go up again.
        downs += ladder.observe(80 if i % 400 < 100 or ladder.place == 0 else 1, i / 100) == 1
    assert downs <= DOWN_A_MINUTE


def test_never_below_the_floor() -> None:
    policy = validated(Policy(("safe", "balanced", "fast"), min_robust=0.3), MEASURED)
    assert floor(policy, MEASURED) == ("safe", "balanced")
    ladder = Ladder(floor(policy, MEASURED), policy.target_ms)
    for i in range(50):
        ladder.observe(1e6, float(i))
    assert ladder.name == "balanced"
    # Nobody asked for a floor: half of the first point's.
    assert floor(Policy(("safe", "balanced", "fast")), MEASURED) == ("safe", "balanced")
    assert floor(Policy(("safe", "balanced", "fast"), min_robust=0), MEASURED) == ("safe", "balanced", "fast")
    assert floor(Policy(("fast", "balanced")), MEASURED) == ("fast", "balanced")
    for bad, message in (
        (Policy(("safe",), min_robust=0.7), "no point of the ladder"),
        (Policy(("save",)), "did you mean 'safe'"),
        (Policy(()), "at least one point"),
        (Policy(("safe", "safe")), "each point once"),
        (Policy(("safe",), target_ms=0), "target_ms must be above 0"),
        (Policy(("safe",), min_robust=2), "min_robust must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            validated(bad, MEASURED)
    for found in ([], {"ladder": "safe"}, {"ladder": ["safe"], "x": 1}, {"ladder": ["safe"], "target_ms": True}, {}):
        with pytest.raises(ValueError, match=r"."):
            parse_policy(found)


def test_nobody_on_the_network_turns_the_dial() -> None:
    check_host("127.0.0.1", Options(open_policy=True, client_dial=True))
    check_host("0.0.0.0", Options(token=TOKEN))
    for options in (Options(open_policy=True), Options(client_dial=True, token=TOKEN)):
        with pytest.raises(ValueError, match="weakest point"):
            check_host("0.0.0.0", options)
