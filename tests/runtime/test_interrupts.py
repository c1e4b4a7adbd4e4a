"""A first signal asks, a second breaks, and the handlers are those of before."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from rheostat.runtime.interrupts import SAME, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_noted_and_a_second_breaks(number: int) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stoppable() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
        time.sleep(SAME + 0.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_is_passed_on_as_well_is_one_request() -> None:
    """A service manager signals every process of a service, and the queue passes its own signal on."""
    with stoppable() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]


def test_another_thread_leaves_signals_to_their_owner() -> None:
    found: list[list[int]] = []

    def work() -> None:
        with stoppable() as received:
            found.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
