"""Stopping between steps: Ctrl-C and SIGTERM ask for a stop instead of breaking what is under way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Work was asked to stop and did so at a safe moment. The message says what is kept and how to go on."""


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """A list that receives the number of the first SIGINT or SIGTERM; a second signal breaks at once.

    Outside the main thread no signal arrives, and the list stays empty. Handlers are restored.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are its owner's business
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def breakable() -> Iterator[None]:
    """SIGTERM breaks off what is under way as Ctrl-C does, by KeyboardInterrupt."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread: signals are its owner's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
