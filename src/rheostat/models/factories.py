"""Factories that rebuild a user's module: a function, its name, or a timm name with plain arguments.

A name from the user is imported and called. A name in a model file is only a hint: Rheostat follows it only if it is
a timm name, because that can only select one of timm's architectures, without weights.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from rheostat.runtime.choices import nearest

Factory = Callable[[], nn.Module]
TIMM = "timm:"
MOST = 8192
"""The largest number allowed as an argument in a timm name."""
WORDS = ("act_layer", "norm_layer", "global_pool")
"""Arguments of timm that may be words; all others must be numbers, True, False, None or tuples of these."""


def module_name(module: nn.Module) -> str:
    """The name of a module's class."""
    return type(module).__name__


def made(what: nn.Module | Factory | str) -> tuple[nn.Module, str]:
    """Make a module; return it and the name of its factory ("" if it has none)."""
    if isinstance(what, nn.Module):
        return what, ""
    if isinstance(what, str):
        return from_name(what), what
    if not callable(what):
        raise ValueError(f"a network is a module, a function that makes one or a name, given {type(what).__name__}")
    name = getattr(what, "__qualname__", "")
    named = bool(re.fullmatch(r"[\w.]+", name))
    return _called(what, name or repr(what)), f"{what.__module__}:{name}" if named else ""


def from_name(text: str) -> nn.Module:
    """Make a module from "package.module:function" or "timm:NAME(argument=value, ...)"; ValueError for other text."""
    return from_timm(text) if text.startswith(TIMM) else from_factory(text)


def from_factory(text: str) -> nn.Module:
    """Make a user's module from `package.module:factory`, found on Python's search path.

    The factory may be that of a class, `package.module:Class.factory`. The command line adds the working directory to
    that path. ValueError says what is wrong with the name.
    """
    module_name, _, factory_name = text.partition(":")
    if not module_name or not factory_name:
        raise ValueError(f"a factory must be written as package.module:function or timm:NAME, given {text!r}")
    if module_name.startswith("."):
        raise ValueError(f"a factory needs the full name of its module, not a relative one, given {text!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r}: {error}") from None
    except Exception as error:  # the user's own code may raise anything
        said = " ".join(str(error).split())
        raise ValueError(f"cannot import {module_name!r}: it raised {type(error).__name__}: {said}") from None
    names = factory_name.split(".")
    found: list[Any] = [module]
    for name in names:  # a class may hold the factory
        found.append(getattr(found[-1], name, None))
        if found[-1] is None:
            break
    *_, owner, factory = found
    if not callable(factory):
        outer = "".join(f"{n}." for n in names[: len(found) - 2])
        allowed = [outer + n for n in dir(owner) if n[0] != "_" and callable(getattr(owner, n, None))]
        raise ValueError(f"{module_name} has no callable {factory_name!r}; {nearest(outer + name, allowed)}")
    return _called(factory, text)


def _called(factory: Callable[..., Any], text: str) -> nn.Module:
    try:
        found = factory()
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(f"{text}() raised {type(error).__name__}: {error}") from None
    if not isinstance(found, nn.Module):
        raise ValueError(f"{text} returned a {type(found).__name__}, expected a torch.nn.Module")
    return found


def from_timm(text: str) -> nn.Module:
    """Make one of timm's architectures, untrained, from a text such as "timm:resnet18(num_classes=10)".

    timm must be installed by the user. ValueError for names of repositories or files, and for arguments that are not
    plain; in these cases nothing is imported.
    """
    name, options = timm_arguments(text)
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"{text} needs timm, which cannot be imported ({error}): pip install timm") from None
    if not timm.is_model(name):
        raise ValueError(f"timm has no network {name!r}; {nearest(name, timm.list_models(f'{name[:4]}*'))}")
    try:
        module: nn.Module = timm.create_model(name, pretrained=False, **options)
    except Exception as error:  # a factory of timm may raise anything
        raise ValueError(f"{text}: {type(error).__name__}: {error}") from None
    return module


def timm_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a timm name with arguments to ("resnet18", {"num_classes": 10}); ValueError if they are not plain."""
    found = re.fullmatch(r"timm:([A-Za-z0-9_.]+)(?:\((.*)\))?", text, re.S)
    if found is None:
        raise ValueError(f"a timm network is written timm:NAME or timm:NAME(argument=value, ...), given {text!r}")
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise ValueError(f"{text}: its arguments are not written as name=value") from None
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise ValueError(f"{text}: its arguments are not written as name=value")
    options: dict[str, Any] = {}
    for keyword in call.keywords:
        assert keyword.arg is not None
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError):
            value = object()
        _check_plain(text, keyword.arg, value)
        options[keyword.arg] = value
    return found[1], options


def _check_plain(text: str, name: str, value: object) -> None:
    values = value if isinstance(value, tuple | list) else [value]
    numbers = all(v is None or (isinstance(v, bool | int | float) and abs(v) <= MOST) for v in values)
    word = name in WORDS and isinstance(value, str)
    if not (numbers or word) or len(values) > 64 or name.startswith(("pretrained", "checkpoint", "cache")):
        raise ValueError(
            f"{text}: argument {name!r} is not plain; allowed are numbers up to {MOST}, True, False, None, tuples of "
            f"these, and words for {', '.join(WORDS)}; weights are never fetched"
        )
