"""Registries: named methods, networks, data sets and attacks, from this package and from others.

A subpackage has one `Registry`. Each of its files registers what it defines, and the subpackage's `__init__` calls
`import_files`, so a new file need not be listed anywhere. Another package adds entries by an entry point in the
registry's group, which names the module that registers them:

    [project.entry-points."rheostat.attacks"]
    theirs = "their_package.attack"
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Generic, TypeVar

from rheostat.runtime.choices import nearest

T = TypeVar("T")
_LOADED: set[str] = set()
_LOADING = threading.RLock()


class Registry(Generic[T]):
    """Values of one kind by name, in the order in which they were registered.

    `what` is the noun for a value in error messages. `group` is the group of entry points, which are loaded once, at
    the first lookup.
    """

    def __init__(self, what: str, *, group: str) -> None:
        self.what, self.group = what, group
        self._values: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def register(self, name: str, value: T, *, origin: str) -> T:
        """Register a value and return it. ValueError if a value of another origin has the name.

        `origin` says where the value is defined (`origin_of`), so that rerunning a notebook cell replaces its value.
        """
        taken = self._origins.setdefault(name, origin)
        if taken != origin:
            raise ValueError(f"the {self.what} {name!r} is already registered by {taken}; choose another name")
        self._values[name] = value
        return value

    def get(self, name: str) -> T:
        """The value of a name; ValueError names the given, the allowed and the nearest name."""
        if name not in self:
            raise ValueError(f"no {self.what} {name!r}; {nearest(name, self.names())}")
        return self._values[name]

    def names(self) -> list[str]:
        """All names, those of other packages last."""
        self._load()
        return list(self._values)

    def values(self) -> list[T]:
        """All values, those of other packages last."""
        self._load()
        return list(self._values.values())

    def items(self) -> list[tuple[str, T]]:
        """Pairs of name and value."""
        self._load()
        return list(self._values.items())

    def __contains__(self, name: object) -> bool:
        if name in self._values:
            return True
        self._load()
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _load(self) -> None:
        if self.group not in _LOADED:
            load_entry_points(self.group)


def load_entry_points(group: str) -> None:
    """Import the modules that other packages name for a group, once. A module that fails causes a warning, no error."""
    with _LOADING:
        if group in _LOADED:
            return
        # Set before the imports, because an imported module may itself look up a name.
        _LOADED.add(group)
        for point in metadata.entry_points(group=group):
            try:
                point.load()
            except Exception as error:  # another package's module may raise anything
                package = point.dist.name if point.dist is not None else point.value
                warnings.warn(
                    f"the package {package!r} adds {point.name!r} to {group}, which cannot be loaded "
                    f"({type(error).__name__}: {error}); it is ignored",
                    stacklevel=3,
                )


def origin_of(*definitions: type | Callable[..., object]) -> str:
    """Where classes or functions are defined: "package.module.Name"."""
    return ", ".join(f"{d.__module__}.{getattr(d, '__qualname__', repr(d))}" for d in definitions)


def import_files(package: str, path: Iterable[str]) -> None:
    """Import every module of a package's own folder, so that each registers what it defines."""
    for found in sorted(pkgutil.iter_modules(path), key=lambda module: module.name):
        importlib.import_module(f"{package}.{found.name}")
