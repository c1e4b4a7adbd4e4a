"""Access control, and reading a request's body under limits of size, time and memory."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from fastapi import Request

from rheostat.serve.budgets import Held
from rheostat.serve.decoding import Limits, Refusal
from rheostat.serve.options import LOOPBACK, Options
from rheostat.serve.tokens import Tokens


class Gate:
    """Checks tokens and hosts. ValueError if the options require a token but none is configured."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.policy_tokens = Tokens(() if options.token is None else (options.token,), options.token_file)
        self.predict_tokens = Tokens((), options.predict_token_file)
        if options.private and not (self.policy_tokens or self.predict_tokens):
            raise ValueError("private numbers need a token: set RHEOSTAT_TOKEN, or give a file of tokens")

    def change_policy(self, request: Request) -> None:
        """Refusal unless this request may change the policy."""
        if not self.policy_tokens:
            if not self.options.open_policy:
                raise Refusal(403, "this server was started without a token, so its policy cannot be changed")
            self.at_home(request)
            return
        if not self.policy_tokens.holds(_bearer(request)):
            raise Refusal(401, "a valid bearer token is needed")

    def predict(self, request: Request) -> None:
        """Refusal unless this request may ask for predictions."""
        if self.predict_tokens:
            self._any(request)

    def look(self, request: Request) -> None:
        """Refusal unless this request may read the measured numbers and the policy."""
        if self.options.private:
            self._any(request)

    def _any(self, request: Request) -> None:
        given = _bearer(request)
        # Both are checked, so that the time does not reveal which of them holds the token.
        if not any([self.predict_tokens.holds(given), self.policy_tokens.holds(given)]):
            raise Refusal(401, "a valid bearer token is needed")

    def at_home(self, request: Request) -> None:
        """Refusal unless the request names this machine as its host.

        This stops DNS rebinding: a web page whose host name resolves to 127.0.0.1 cannot use the visitor's browser.
        """
        for header in ("host", "origin"):
            given = request.headers.get(header)
            if given is None and header == "origin":
                continue
            try:
                name = urlsplit(given if given and "//" in given else f"//{given or ''}").hostname
            except ValueError:
                name = None
            if name not in LOOPBACK:
                raise Refusal(403, f"an open dial accepts requests from this machine only: {header} must be localhost")


def _bearer(request: Request) -> str:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else ""


async def read_body(request: Request, limits: Limits, held: Held) -> bytes:
    """Read the body; the bytes that have arrived count against the budget of `held`."""
    announced = request.headers.get("content-length", "")
    if announced and (
        not (announced.isascii() and announced.isdigit()) or len(announced) > 15 or int(announced) > limits.max_bytes
    ):
        raise Refusal(413, f"a body of {announced[:20]} bytes; at most {limits.max_bytes} are allowed")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_bytes:
                    raise Refusal(413, f"a body of more than {limits.max_bytes} bytes")
                held.add(len(part))
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {limits.body_seconds:g} s") from None
    return b"".join(parts)
