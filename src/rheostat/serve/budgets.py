"""Limited resources, in total and per client: bytes in flight, images in the queue, requests per second."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from rheostat.serve.decoding import Refusal

EACH = 4
"""A client that is not on loopback may hold at most the total divided by this, and always one request of the largest
size."""
CLIENTS = 10_000
"""Number of clients whose rate is remembered."""
LONGEST = 64
"""Number of characters kept of a client's name that is not an address."""


def client_of(host: str | None) -> str:
    """The client that a request counts against: its IPv4 address, or its IPv6 /64, which one holder owns whole.

    An IPv4 address written as IPv6 counts as the IPv4 address. A proxy may send text that is not an address: each such
    text counts as one client. A request on loopback or without a host, as on a Unix socket, is "local".
    """
    if host is None:
        return "local"
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return f"unknown {host[:LONGEST]!r}"
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return "local"
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Held:
    """One request's part of a budget."""

    def __init__(self, budget: Budget, client: str) -> None:
        self.budget, self.client, self.amount = budget, client, 0

    def add(self, amount: int) -> None:
        """Hold `amount` more; Refusal (503) if the total or the client's share is used up."""
        budget = self.budget
        used_here = budget.clients.get(self.client, 0) + amount
        full = budget.bounded and budget.used + amount > budget.total
        if full or (self.client != "local" and used_here > budget.share):
            raise Refusal(503, f"too many {budget.what} at once; try again")
        budget.used += amount
        budget.clients[self.client] = used_here
        self.amount += amount


class Budget:
    """A total that requests hold parts of. A client on loopback has no per-client limit, because it may be a proxy.

    `largest` is what one request may hold; a client's share is never less, or a large request would always be refused.
    Without `bounded` only the shares are limits, because something else bounds the total.
    """

    def __init__(self, what: str, total: int, *, largest: int = 0, bounded: bool = True) -> None:
        self.what, self.total, self.bounded, self.used = what, total, bounded, 0
        self.share = max(total // EACH, largest)
        self.clients: dict[str, int] = {}

    @contextmanager
    def hold(self, client: str, amount: int = 0) -> Iterator[Held]:
        """Hold `amount`, and whatever is added to it, until the block ends."""
        held = Held(self, client)
        try:
            held.add(amount)
            yield held
        finally:
            self.used -= held.amount
            left = self.clients.get(client, 0) - held.amount
            if left > 0:
                self.clients[client] = left
            else:
                self.clients.pop(client, None)


class Rate:
    """A token bucket for each client: `each` requests per second, bursts of two seconds' worth; else Refusal (429)."""

    def __init__(self, each: float | None) -> None:
        self.each = each
        self.clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str, now: float | None = None) -> None:
        """Count one request."""
        if self.each is None:
            return
        now = time.monotonic() if now is None else now
        most = max(1.0, 2 * self.each)
        left, then = self.clients.pop(client, (most, now))
        left = min(most, left + (now - then) * self.each)
        allowed = left >= 1
        self.clients[client] = (left - 1 if allowed else left, now)
        if len(self.clients) > CLIENTS:
            self.clients.popitem(last=False)
        if not allowed:
            raise Refusal(429, f"more than {self.each:g} requests per second", retry=math.ceil((1 - left) / self.each))
