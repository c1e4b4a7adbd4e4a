"""Stopping between steps: Ctrl-C and SIGTERM request a stop instead of interrupting the current step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Work stopped on request at a safe moment. The message says what is kept and how to continue."""


Receive = Callable[[int, FrameType | None], None]


@contextmanager
def received_by(receive: Receive) -> Iterator[None]:
    """Give SIGINT and SIGTERM to `receive`; the previous handlers are restored at the end.

    Outside the main thread no signal arrives.
    """
    try:
        before = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are its owner's business
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Yield a list that receives the number of the first SIGINT or SIGTERM; a second signal interrupts at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    with received_by(receive):
        yield received


@contextmanager
def breakable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread: signals are its owner's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
