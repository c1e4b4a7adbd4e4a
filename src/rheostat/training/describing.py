"""What the objects and functions that a caller gives to a run hold, as a hash: equal in every process.

A run whose optimiser has another rate, or whose loss has another weight, must not pass for the one in the folder,
although the two have the same names.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import inspect
import weakref
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import data as torch_data

PLAIN: tuple[type, ...] = (
    *(type(None), type(...), bool, int, float, complex, str, bytes, range, slice, enum.Enum, PurePath),
    *(torch.dtype, torch.device),
)
"""Types whose text says all that a value holds."""
DEEPEST = 2
"""An object inside so many others is described by its class alone."""
_FIRST: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def name_of_kind(value: object) -> str:
    """The module and the name of a function or a class, or those of an object's class."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def held_by(value: object, model: nn.Module) -> str:
    """A hash of what an option of a run of `model` holds.

    It covers the code of a function with its constants and defaults, the values that it closes over and the plain
    globals that it reads; the arguments of a partial; the attributes of an object; the defaults and groups of an
    optimiser; and every tensor except those of `model`, which are trained. In one process an object counts as what it
    held when it was first given, because a run changes its rates and counters.
    """
    found: str | None = None
    with suppress(TypeError):  # a value without a hash, or that takes no weak reference
        found = _FIRST.get(value)
    if found is None:
        trained = frozenset(t.data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel())
        text = "\x1f".join(_Held(trained).parts(value))
        found = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
        with suppress(TypeError):
            _FIRST[value] = found
    return found


class _Held:
    """Says part by part what a value holds; `trained` are the addresses of the tensors of the trained model."""

    def __init__(self, trained: frozenset[int]) -> None:
        self.trained = trained
        self.seen: dict[int, tuple[int, object]] = {}
        """The functions and objects so far by their id, with their place; kept, so that no id is used again."""

    def parts(self, value: Any, depth: int = 0) -> Iterator[str]:
        """The parts of a value that is inside `depth` objects."""
        if isinstance(value, PLAIN):
            yield repr(value)
        elif isinstance(value, Tensor):
            yield self._tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            yield _array(np.asarray(value))
        elif isinstance(value, Mapping):
            yield from self._each("{}", (one for item in value.items() for one in item), depth)
        elif isinstance(value, list | tuple):
            yield from self._each("[]", value, depth)
        elif isinstance(value, Set):
            yield from sorted("\x1e".join(self.parts(one, depth)) for one in value)
        elif isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(value, type | BuiltinFunctionType):
            yield name_of_kind(value)
        elif id(value) in self.seen:
            yield f"again {self.seen[id(value)][0]}"
        else:
            self.seen[id(value)] = len(self.seen), value
            yield from self._made(value, depth)

    def _each(self, ends: str, values: Iterable[object], depth: int) -> Iterator[str]:
        yield ends[0]
        for value in values:
            yield from self.parts(value, depth)
        yield ends[1]

    def _made(self, value: Any, depth: int) -> Iterator[str]:
        """The parts of a function or an object."""
        if isinstance(value, functools.partial):
            yield from self._each("()", (value.func, value.args, value.keywords), depth)
        elif isinstance(value, MethodType):
            yield from self._each("()", (value.__func__, value.__self__), depth)
        elif isinstance(value, FunctionType):
            yield from self._function(value, depth)
        elif isinstance(value, CodeType):
            yield hashlib.sha256(value.co_code).hexdigest()
            yield from self._each("()", (value.co_consts, value.co_names), depth)
        elif isinstance(value, Optimizer):
            groups = [{k: v for k, v in group.items() if k != "params"} for group in value.param_groups]
            shapes = [[tuple(p.shape) for p in group["params"]] for group in value.param_groups]
            yield from self._each("()", (type(value), value.defaults, groups, shapes), depth)
        elif isinstance(value, nn.Module):
            yield from self._module(value, depth)
        else:
            yield from self._object(value, depth)

    def _function(self, function: FunctionType, depth: int) -> Iterator[str]:
        reads, code = function.__globals__, function.__code__
        if str(reads.get("__name__")).partition(".")[0] == "torch" and hasattr(function, "__wrapped__"):
            # What torch wraps a function in (torch.compile, torch.no_grad) is no part of the function.
            yield from self.parts(inspect.unwrap(function), depth)
            return
        yield from self._each("()", (code, function.__defaults__, function.__kwdefaults__), depth)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield name
            yield from self.parts(_content(cell), depth)
        for name in sorted(_globals_of(code)):
            found = reads.get(name)
            if isinstance(found, PLAIN) or getattr(found, "__globals__", None) is reads:
                yield name
                yield from self.parts(found, depth)

    def _module(self, module: nn.Module, depth: int) -> Iterator[str]:
        """A module: its class, attributes and tensors; of one that is in training the class alone."""
        inner = getattr(module, "_orig_mod", None)  # of a compiled module
        module = inner if isinstance(inner, nn.Module) else module
        yield name_of_kind(module)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        if any(tensor.data_ptr() in self.trained for _, tensor in tensors):
            return
        for name, part in module.named_modules():
            public = {k: v for k, v in vars(part).items() if not k.startswith("_") and k != "training"}
            yield from self._each("()", (name, type(part), _python(part, "forward"), public), depth + 1)
        yield from self._each("()", tensors, depth)

    def _object(self, value: Any, depth: int) -> Iterator[str]:
        """An object: its class, what a call of it does, and its attributes; of a source of images the class alone."""
        yield name_of_kind(value)
        source = hasattr(value, "__getitem__") and hasattr(value, "__len__")
        if depth >= DEEPEST or source or isinstance(value, torch_data.Dataset | torch_data.DataLoader):
            return
        kept = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {}
        kept |= getattr(value, "__dict__", {})
        yield from self._each("()", (_python(value, "__call__"), kept), depth + 1)

    def _tensor(self, tensor: Tensor) -> str:
        about = f"{tensor.dtype} {tuple(tensor.shape)}"
        whole = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
        if whole.is_meta or not whole.numel() or whole.data_ptr() in self.trained:
            return about
        raw = whole.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{about} {hashlib.sha256(raw).hexdigest()}"


def _array(array: np.ndarray[Any, Any]) -> str:
    raw = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return f"{array.dtype} {array.shape} {hashlib.sha256(raw).hexdigest()}"


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is assigned yet
        return None


def _python(value: object, name: str) -> FunctionType | None:
    """A method of an object's class if it is written in Python, else None."""
    found = getattr(type(value), name, None)
    return found if isinstance(found, FunctionType) else None


def _globals_of(code: CodeType) -> set[str]:
    """The names of the globals that a function, and the functions inside it, read."""
    own = {str(one.argval) for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    return own.union(*(_globals_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))
