"""uvicorn with limits on connections: their number, the time and size of headers, slow reading, idling."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rheostat.serve.budgets import EACH, client_of


@dataclass(frozen=True)
class Connections:
    """Limits on connections, in seconds and bytes."""

    most: int = 1024
    """Connections in total; a client that is not on loopback may hold a quarter of them. Any further one gets a 503."""
    header_seconds: float = 10.0
    header_bytes: int = 16384
    idle_seconds: float = 15.0
    write_seconds: float = 30.0
    """How long a client may take to read an answer."""
    grace_seconds: int = 30
    """How long accepted requests may still take after the server is asked to stop."""


RECEIVED = "rheostat.received"
"""Key of a request's scope: when the last bytes came from the network so far, in seconds of `time.perf_counter`."""
REFUSED = (
    b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)


def _answer(status: bytes, detail: bytes) -> bytes:
    body = b'{"detail": "%s"}' % detail
    return REFUSED % (status, len(body), body)


class BoundedProtocol(H11Protocol):
    """uvicorn's connection, with a time limit on headers and a limit on the number of connections."""

    limits = Connections()
    clients: Counter[str]
    counted = ""
    late: asyncio.TimerHandle | None = None
    stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection. Beyond the limit, answer 503 and close it before reading a byte."""
        super().connection_made(cast(asyncio.Transport, transport))
        self.counted = client_of(self.client[0] if self.client else None)
        self.clients[self.counted] += 1
        shared = self.counted == "local"
        if len(self.connections) > self.limits.most or (
            not shared and self.clients[self.counted] > self.limits.most // EACH
        ):
            self._end(_answer(b"503 Service Unavailable", b"too many connections; try again"))
            return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._stop("late")
        self._stop("stuck")
        self.clients[self.counted] -= 1
        if self.clients[self.counted] <= 0:
            del self.clients[self.counted]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Run the time limit on headers while no request is being answered; further bytes do not extend it."""
        if self.transport.is_closing():
            return
        now = time.perf_counter()
        super().data_received(data)
        if self.cycle is not None:
            # The application reads later, when the event loop comes to it. Load makes that wait, so it counts.
            cast(dict[str, Any], self.scope)[RECEIVED] = now
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("late")
        elif not self.transport.is_closing():
            self._wait_for_headers()

    def pause_writing(self) -> None:
        """The client has stopped reading: start the time limit on writes."""
        super().pause_writing()
        if self.stuck is None:
            self.stuck = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again: stop the time limit on writes."""
        super().resume_writing()
        self._stop("stuck")

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, whether or not the client has read everything."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def _wait_for_headers(self) -> None:
        if self.late is None:
            self.late = self.loop.call_later(self.limits.header_seconds, self._too_late)

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self._end(_answer(b"408 Request Timeout", b"the headers took too long"))

    def _end(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()
        self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def _stop(self, which: str) -> None:
        timer = getattr(self, which)
        if timer is not None:
            timer.cancel()
            setattr(self, which, None)


def config(
    web: Any, host: str, port: int, limits: Connections | None = None, *, behind_proxy: bool = False
) -> uvicorn.Config:
    """uvicorn's configuration for an application under these limits.

    With `behind_proxy`, a proxy on this machine names the client (X-Forwarded-For); otherwise that header is ignored.
    """
    limits = limits or Connections()
    kind = type("Protocol", (BoundedProtocol,), {"limits": limits, "clients": Counter()})
    return uvicorn.Config(
        web,
        host=host,
        port=port,
        http=kind,
        ws="none",
        # uvicorn's own configuration of logging closes every handler that the process already has.
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1" if behind_proxy else "",
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=limits.grace_seconds,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
