"""What the objects and functions that a caller gives to a run specify, as a hash.

A run with another rate in its optimiser must not pass for the one in the folder. The hash is the same in every process,
on every device and for every version of Python and torch, so it covers only the numbers and names that a caller wrote.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Sampler

INSTALLED = (Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
"""This package and the standard library; a function there, or below `site-packages`, counts by its name alone."""


def name_of_kind(value: object) -> str:
    """The module and the name of a function or a class, or those of an object's class."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def hash_of(value: object) -> str:
    """A hash of what an option specifies."""
    return hashlib.sha256(_option(value).encode(errors="backslashreplace")).hexdigest()[:16]


def _option(value: Any) -> str:
    value = getattr(value, "_orig_mod", value)  # of a compiled module
    name = name_of_kind(value)
    if isinstance(value, Mapping):  # a state dict
        return _plain([*value.items()])
    if isinstance(value, functools.partial):
        return f"{_option(value.func)} {_plain(value.args)} {_plain([*value.keywords.items()])}"
    if isinstance(value, Optimizer):
        numbers = {k: v for k, v in value.defaults.items() if isinstance(v, int | float | tuple)}
        return f"{name} {[(k, _plain(numbers[k])) for k in sorted(numbers) if not isinstance(numbers[k], bool)]}"
    if isinstance(value, nn.Module | Sampler):
        held = vars(value) | vars(value).get("_buffers", {})
        own = sorted(k for k in held if k[0] != "_" and k not in ("training", "epoch"))  # a run sets these two
        return f"{name} {[(k, text) for k in own if (text := _plain(held[k]))]}"
    function = inspect.unwrap(getattr(value, "__func__", value))
    if not isinstance(function, FunctionType) or _installed(Path(function.__code__.co_filename)):
        return name
    code = _inside(function.__code__)
    loaded = (one for part in code for one in dis.get_instructions(part) if one.opcode in dis.hasconst)
    constants = [*dict.fromkeys(text for one in loaded if (text := _plain(one.argval, tensors=False)))]
    names = sorted({one for part in code for one in part.co_names})
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is assigned yet
            values.append(cell.cell_contents)
    fixed = [value for value in values if not isinstance(value, list)]  # a run may append to a list
    return f"{name} {constants} {names} {_plain(fixed, tensors=False)}"


def _plain(value: Any, *, tensors: bool = True) -> str:
    """The text of a number or a string, or of a tuple or list of them, and of a tensor if asked for; else ""."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int | float | complex | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(one, tensors=tensors) for one in value)}]"
    if tensors and isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {hashlib.sha256(raw).hexdigest()}"
    return _plain(value.tolist()) if tensors and isinstance(value, np.ndarray) else ""


def _inside(code: CodeType) -> list[CodeType]:
    """The code of a function and of the functions inside it."""
    return [code, *(one for inner in code.co_consts if isinstance(inner, CodeType) for one in _inside(inner))]


def _installed(file: Path) -> bool:
    return "site-packages" in file.parts or any(file.is_relative_to(folder) for folder in INSTALLED)
