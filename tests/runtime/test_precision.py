"""Judging in full fp32: what the scope switches off, and that it restores what was set."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from rheostat.runtime.precision import full_precision

BACKENDS = torch.backends


def state() -> tuple[object, ...]:
    """All settings that round products of fp32 tensors, by the newer interface."""
    kinds = (
        BACKENDS.cuda.matmul,
        BACKENDS.cudnn.conv,
        BACKENDS.cudnn.rnn,
        BACKENDS.mkldnn.matmul,
        BACKENDS.mkldnn.conv,
    )
    return tuple(k.fp32_precision for k in kinds)


def older() -> tuple[object, ...]:
    """The same by the older interface, which cannot be read where the two disagree."""
    found = []
    for read in (lambda: BACKENDS.cuda.matmul.allow_tf32, lambda: BACKENDS.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("unreadable")
    return tuple(found)


@pytest.fixture
def restored() -> Iterator[None]:
    before = state()
    precision, cudnn = torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(precision)
    BACKENDS.cudnn.allow_tf32 = cudnn
    kinds = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.matmul)
    for kind, was in zip(kinds, before, strict=False):
        kind.fp32_precision = was


def fast_by_flags() -> None:
    BACKENDS.cuda.matmul.allow_tf32 = True
    BACKENDS.cudnn.allow_tf32 = True


def fast_by_precision() -> None:
    torch.set_float32_matmul_precision("medium")


def fast_by_the_newer_interface() -> None:
    BACKENDS.cuda.matmul.fp32_precision = "tf32"


@pytest.mark.parametrize("fast", [fast_by_flags, fast_by_precision, fast_by_the_newer_interface, lambda: None])
def test_inside_everything_is_full_and_after_it_as_before(fast, restored) -> None:
    fast()
    before = state(), older()
    with full_precision():
        assert set(state()) == {"ieee"}
        assert not BACKENDS.cuda.matmul.allow_tf32
        assert not BACKENDS.cudnn.allow_tf32
        with full_precision():
            assert set(state()) == {"ieee"}
        assert set(state()) == {"ieee"}
    assert (state(), older()) == before


def test_autocast_does_not_reach_inside() -> None:
    a = torch.rand(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16
        with full_precision():
            assert (a @ a).dtype is torch.float32
        assert (a @ a).dtype is torch.bfloat16


def test_the_last_of_several_threads_restores(restored) -> None:
    fast_by_flags()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_precision():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        entered.wait(10)
    assert set(state()) == {"ieee"}
    leave.set()
    thread.join()
    assert BACKENDS.cuda.matmul.allow_tf32
    assert BACKENDS.cudnn.allow_tf32


def test_an_error_inside_restores(restored) -> None:
    fast_by_flags()
    with pytest.raises(ValueError, match="inside"), full_precision():
        raise ValueError("inside")
    assert BACKENDS.cuda.matmul.allow_tf32
