"""Middleware around every request: it counts and answers unexpected errors, and logs no traceback for disconnects."""

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
    """ASGI middleware: safe headers, unexpected errors, disconnects, and the access log."""

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
            log.exception("unexpected error at %s", ascii(scope["path"])[:200])
            if status:
                raise
            await JSONResponse({"detail": "internal server error"}, 500)(scope, receive, watched)
        finally:
            if self.access_log:
                self.note(scope, status, time.perf_counter() - started)

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """Log one line of ASCII JSON, so that a request's path cannot forge further lines."""
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
