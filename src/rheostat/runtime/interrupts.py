"""Stopping between steps: Ctrl-C and SIGTERM request a stop instead of interrupting the current step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Work stopped on request at a safe moment. The message says what is kept and how to continue."""


SAME = 0.5
Receive = Callable[[int, FrameType | None], None]


@contextmanager
def received_by(receive: Receive, *signals: signal.Signals) -> Iterator[None]:
    """Give these signals to `receive`; the previous handlers are restored at the end.

    Outside the main thread no signal arrives.
    """
    try:
        before = {s: signal.signal(s, receive) for s in signals}
    except ValueError:  # not the main thread: signals are its owner's business
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Yield a list that receives the number of the first SIGINT or SIGTERM; a second signal interrupts at once.

    A signal that comes within `SAME` seconds of the first is the same request: a service manager sends it to every
    process of a service, and a parent passes it on.
    """
    received: list[int] = []
    first = 0.0

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            received.append(number)
            first = time.monotonic()
        elif time.monotonic() - first > SAME:
            raise KeyboardInterrupt

    with received_by(receive, signal.SIGINT, signal.SIGTERM):
        yield received


@contextmanager
def breakable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    with received_by(signal.default_int_handler, signal.SIGTERM):
        yield
