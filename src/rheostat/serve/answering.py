"""Answer a request, under every limit, at the point that the policy chooses; shared by both protocols."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from fastapi import Request

from rheostat.serve.budgets import client_of
from rheostat.serve.connections import RECEIVED
from rheostat.serve.decoding import Array, Refusal
from rheostat.serve.gate import read_body
from rheostat.serve.scheduling import Full
from rheostat.serve.state import State

Read = Callable[[bytes], Awaitable[tuple[Array, str | None]]]
"""Maps a request body to (images (n, C, H, W) in [0, 1], the point that the body names, or None)."""


async def answered(state: State, request: Request, read: Read, *, asked: str | None = None) -> tuple[str, Array]:
    """Return (point used, probabilities (n, K)); raise Refusal if a limit, a token check or the queue rejects it.

    `asked` is the point named in the request's URL; the server accepts one only with `client_dial`.
    """
    options = state.options
    client = client_of(request.client.host if request.client else None)
    state.gate.predict(request)
    state.rate.check(client)
    _may_ask(state, request, asked)
    try:
        async with asyncio.timeout(options.request_seconds):
            with state.bytes.hold(client) as held:
                body = await read_body(request, options.limits, held)
                now = time.perf_counter()
                waited = now - request.scope.get(RECEIVED, now)
                images, named = await read(body)
                del body
            _may_ask(state, request, named)
            with state.images.hold(client, len(images)):
                return await state.engine.submit(images, asked or named, waited=waited)
    except Full as full:
        raise Refusal(503, str(full)) from None
    except TimeoutError:
        raise Refusal(504, f"the request took longer than {options.request_seconds:g} s") from None


def _may_ask(state: State, request: Request, asked: str | None) -> None:
    if asked is None:
        return
    if not state.options.client_dial:
        raise Refusal(403, "the policy sets the dial, not the request: an attacker would choose the weakest point")
    state.gate.at_home(request)
    if asked not in state.served.runs:
        raise Refusal(422, f"no point {asked[:100]!r}")
