"""Errors about names (what was given, what is allowed and the nearest match) and settings without effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NoEffectWarning(UserWarning):
    """A setting that was given and changes nothing."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The clause that ends an error message: the nearest allowed name, and all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names) if names else 'none'}"


def check_choice(owner: str, what: str, given: str, allowed: Iterable[str]) -> None:
    """ValueError that names owner, option, what was given and the nearest, unless it is allowed."""
    names = tuple(allowed)
    if given not in names:
        raise ValueError(f"{owner}: no {what} {given!r}; {nearest(given, names)}")
