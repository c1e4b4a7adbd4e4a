"""Error messages about names, with the given, the allowed and the nearest name; warnings of unused settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NoEffectWarning(UserWarning):
    """A setting was given that has no effect."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the nearest allowed name, then all allowed names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names) if names else 'none'}"


def check_choice(owner: str, what: str, given: str, allowed: Iterable[str]) -> None:
    """ValueError unless `given` is allowed; it names the owner, the option, the given and the nearest value."""
    names = tuple(allowed)
    if given not in names:
        raise ValueError(f"{owner}: no {what} {given!r}; {nearest(given, names)}")
