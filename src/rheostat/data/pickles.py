"""Pickles of plain data, read by a small interpreter that never imports or calls anything a file names.

Python's unpickler calls the functions that a file names and passes states from the file to numpy; a malicious
dtype state can then turn bytes into pointers. This reader accepts a short list of opcodes and treats a global
as an inert marker. An array is a shape and bytes, checked against each other before `numpy.frombuffer`.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rheostat.data.base import DataError

OPCODES = 1_000_000
"""The most opcodes that are read from a file, a few seconds of work; 50 000 images need a third of them."""
DIMENSIONS = 4
GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}


@dataclass(frozen=True, eq=False)
class _Global:
    """A name in the file, never resolved to a function or class."""

    kind: str


@dataclass(eq=False)
class _Kind:
    """A dtype; only u1 is accepted."""


@dataclass(eq=False)
class _Array:
    """An array; `value` is None until its state has been read."""

    value: np.ndarray | None = None


_MARK = _Global("mark")
"""Marks the start of a sequence on the stack."""


def loads(raw: bytes) -> Any:
    """Read a pickle of uint8 arrays, whole numbers, bytes, strings, lists, tuples, dicts, None and booleans.

    Raises DataError if it holds anything else, is damaged, or has more than `OPCODES` opcodes. Strings of
    Python 2 are returned as bytes.
    """
    machine = _Machine(len(raw))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(raw))):
            if count > OPCODES:
                raise DataError(f"more than {OPCODES} opcodes")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        (found,) = machine.stack
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"not a complete pickle ({type(error).__name__}: {str(error)[:80]})") from None
    return _finished(found)


class _Machine:
    """The stack and the memo; `step` runs one opcode."""

    def __init__(self, size: int) -> None:
        self.left = 2 * size
        """Bytes that may still be copied; the limit is needed because a text in the memo can be encoded repeatedly."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Run one opcode; raises DataError for an opcode that plain data does not need."""
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _VALUES:
            stack.append(_VALUES[name](argument))
        elif name in _MAKERS:
            stack.append(_MAKERS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        elif name == "APPENDS":
            values = self.marked()
            _expect(stack[-1], list).extend(values)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.popped(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(self.marked()))
        elif name == "LIST":
            stack.append(self.marked())
        elif name == "DICT":
            stack.append({})
            self.fill(self.marked(below=1))
        elif name == "SETITEM":
            self.fill(self.popped(2))
        elif name == "SETITEMS":
            self.fill(self.marked())
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.marked()
        elif name == "GLOBAL":
            stack.append(_global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_global(*self.popped(2)))
        elif name == "REDUCE":
            function, arguments = self.popped(2)
            made = _reduced(function, arguments, self.left)
            self.left -= len(made) if isinstance(made, bytes) else 0
            stack.append(made)
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        else:
            raise DataError(f"holds the opcode {name}")

    def popped(self, count: int) -> list[Any]:
        """The top `count` values, in order."""
        if len(self.stack) < count:
            raise DataError("pops more values than its stack holds")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def marked(self, below: int = 0) -> list[Any]:
        """Pop the values above the last mark, and the mark; the top `below` values stay on the stack."""
        kept = self.popped(below) if below else []
        values = []
        while self.stack[-1] is not _MARK:
            values.append(self.stack.pop())
        self.stack.pop()
        self.stack += kept
        return values[::-1]

    def fill(self, pairs: list[Any]) -> None:
        """Set keys (strings or bytes) of the dict on top of the stack."""
        found = _expect(self.stack[-1], dict)
        if len(pairs) % 2 or not all(isinstance(k, str | bytes) for k in pairs[::2]):
            raise DataError("holds a dict whose keys are not strings")
        found.update(zip(pairs[::2], pairs[1::2], strict=True))


def _text(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")


def _same(value: Any) -> Any:
    return value


_IGNORED = ("PROTO", "FRAME")
_MAKERS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _same),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _same),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _same),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _text),
}


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise DataError(f"fills a {type(value).__name__} as if it were a {kind.__name__}")
    return value


def _named(value: Any) -> str:
    """A name for a message. A nested value is not printed, because a small one can have a very long text."""
    return repr(value)[1:81].rstrip("'") if isinstance(value, str) else type(value).__name__


def _global(module: Any, name: Any) -> _Global:
    kind = GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if kind is None:
        raise DataError(f"holds {_named(module)}.{_named(name)}")
    return _Global(kind)


def _reduced(function: Any, arguments: Any, left: int) -> Any:
    """The result of a call in the file: an empty array, u1, or bytes written as text."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise DataError("calls something that is not a function")
    if function.kind == "array":
        return _Array()
    if function.kind == "dtype":
        if not arguments or arguments[0] not in ("u1", b"u1", "|u1", b"|u1"):
            raise DataError(f"holds an array of {_named(arguments[0]) if arguments else 'no type'}")
        return _Kind()
    if function.kind == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
        text = arguments[0]
        if isinstance(text, str):
            if len(text) > left:
                raise DataError("encodes the same text repeatedly")
            return text.encode("latin-1")
    raise DataError("calls a function that plain data does not need")


def _build(target: Any, state: Any) -> None:
    """Set the shape and bytes of an array; a dtype accepts only the state of plain u1."""
    if isinstance(target, _Kind):
        plain = isinstance(state, tuple) and len(state) == 8 and state[0] == 3 and state[1] in ("|", b"|")
        if not plain or any(v is not None for v in state[2:5]) or state[5:] != (-1, -1, 0):
            raise DataError("holds a dtype with a custom state")
        return
    if not isinstance(target, _Array) or not isinstance(state, tuple) or len(state) != 5:
        raise DataError("sets a state on an object that takes none")
    _, shape, kind, fortran, raw = state
    if not isinstance(kind, _Kind) or not isinstance(raw, bytes) or not isinstance(shape, tuple):
        raise DataError("holds an array that is not made of plain bytes")
    if not 1 <= len(shape) <= DIMENSIONS or not all(type(n) is int and 0 <= n <= len(raw) for n in shape):
        raise DataError("holds an array whose shape does not fit its bytes")
    if math.prod(shape) != len(raw):
        raise DataError(f"holds an array of {math.prod(shape)} values in {len(raw)} bytes")
    target.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _finished(found: Any) -> Any:
    """The value with each `_Array` replaced by its numpy array, at the top level or in a top-level dict."""
    if isinstance(found, _Array):
        return found.value
    if isinstance(found, dict):
        return {k: v.value if isinstance(v, _Array) else v for k, v in found.items()}
    if isinstance(found, _Global | _Kind):
        raise DataError("holds no value")
    return found
