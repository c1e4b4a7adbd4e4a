"""Plain Python values in place of numbers and arrays of NumPy and torch, so that a file can hold them."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")


def plain(value: Any) -> Any:
    """A number or array of NumPy or torch as Python numbers; a list is a tuple, and other values are unchanged."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def with_plain_fields(instance: T) -> T:
    """A dataclass whose repr has only plain values in its fields; the instance itself if it already has."""
    fields = dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()
    given = {f.name: getattr(instance, f.name) for f in fields if f.init}
    changed = {name: new for name, old in given.items() if repr(new := plain(old)) != repr(old)}
    return dataclasses.replace(instance, **changed) if changed else instance  # type: ignore[type-var]
