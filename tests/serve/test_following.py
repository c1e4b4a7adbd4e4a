"""A server follows the policy that others store, and never goes back to one that it read before storing its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any

from rheostat.serve.state import State


class Slow:
    """A store whose reader returns what was stored when it began to read."""

    def __init__(self, policy: str) -> None:
        self.policy = policy

    def read(self) -> str:
        found = self.policy
        time.sleep(0.1)
        return found

    def write(self, policy: str) -> None:
        self.policy = policy


def test_a_policy_read_before_another_was_stored_is_not_used_after_it() -> None:
    taken: list[str] = []
    state: Any = SimpleNamespace(
        options=SimpleNamespace(store=Slow("old"), poll=0.01), policy="older", allowed=lambda policy: policy
    )

    def take(policy: str) -> None:
        state.policy = policy
        taken.append(policy)

    state.take = take

    async def scenario() -> None:
        state.storing = asyncio.Lock()
        follower = asyncio.create_task(State.follow(state))
        await asyncio.sleep(0.05)  # it reads "old"
        await State.keep(state, "new")  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower

    asyncio.run(scenario())
    assert taken[-1] == "new"
    assert taken.index("new") == len(taken) - 1
