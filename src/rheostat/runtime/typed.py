"""Check options from files and command lines against type annotations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


@functools.cache
def _annotations(owner: Callable[..., object]) -> Mapping[str, Any]:
    """The annotations of a function's arguments or a dataclass's fields; empty if one of them cannot be resolved."""
    try:
        return get_type_hints(owner)
    except NameError:  # a name that another package imports only for type checkers
        return {}


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=STRICT)
    except PydanticUserError:  # an annotation with its own configuration: a model or a dataclass
        return TypeAdapter(annotation)


def check_types(what: str, owner: Callable[..., object], given: Mapping[str, object]) -> None:
    """ValueError that names the first option whose value does not match its annotation, or is infinite or NaN.

    An integer counts as a float; nothing else is converted. An option without an annotation is not checked.
    """
    known = _annotations(owner)
    for option, value in given.items():
        if option not in known:
            continue
        try:
            _adapter(known[option]).validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            shown = repr(value)
            raise ValueError(
                f"{what}: {option} is not of the type {_text(known[option])} ({problem['msg'].lower()}), "
                f"given {shown if len(shown) < 80 else shown[:80] + '…'}"
            ) from None


def _text(annotation: Any) -> str:
    return annotation.__name__ if annotation in (int, float, str, bool) else str(annotation)
