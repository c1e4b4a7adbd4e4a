"""Around every request: an error that nobody meant is counted and answered, a client that left is no traceback."""

from __future__ import annotations

import json
import logging
import time

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rheostat.serve.metrics import Metrics

log = logging.getLogger("rheostat.serve")
access = logging.getLogger("rheostat.access")
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Guard:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, access_log: bool = False) -> None:
        self.app, self.metrics, self.access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *((k.lower().encode(), v.encode()) for k, v in SAFE_HEADERS.items()),
                ]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            status = 499
            self.metrics.left.inc()
        except Exception:
            self.metrics.errors.inc()
            log.exception("an error that nobody meant, at %s", ascii(scope["path"])[:200])
            if status:
                raise
            await JSONResponse({"detail": "an error of the server"}, 500)(scope, receive, watched)
        finally:
            if self.access_log:
                self.note(scope, status, time.perf_counter() - started)

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """One line of JSON, plain ASCII: a path cannot write lines of its own."""
        client = scope.get("client")
        access.info(
            json.dumps(
                {
                    "time": round(time.time(), 3),
                    "client": client[0] if client else None,
                    "method": scope["method"],
                    "path": scope["path"][:200],
                    "status": status,
                    "ms": round(1e3 * seconds, 3),
                }
            )
        )
