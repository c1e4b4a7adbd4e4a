"""Registries: what a room knows by name, its own files and those that other packages add.

A room has one `Registry`. Each of its files registers what it defines, and the room's `__init__` calls
`import_files`, so that a new file is found without being listed. Another package adds its own by an entry
point of the registry's group that names the module which registers them:

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

    `what` is the word for one of them in messages; `group` the group of entry points, which are loaded
    once, at the first lookup.
    """

    def __init__(self, what: str, *, group: str) -> None:
        self.what, self.group = what, group
        self._values: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def register(self, name: str, value: T, *, origin: str) -> T:
        """Enter a value; returns it. ValueError if the name is taken by one of another origin.

        `origin` says where it is defined (`origin_of`): a cell of a notebook that runs again replaces its own.
        """
        taken = self._origins.setdefault(name, origin)
        if taken != origin:
            raise ValueError(f"the {self.what} {name!r} of {taken} is registered already; choose another name")
        self._values[name] = value
        return value

    def get(self, name: str) -> T:
        """The value of a name; ValueError names what was given, what is allowed and the nearest."""
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
    """Import the modules that other packages name for a group, once; one that fails is a warning, never an error."""
    with _LOADING:
        if group in _LOADED:
            return
        # Before the imports: what is imported here may itself look something up.
        _LOADED.add(group)
        for point in metadata.entry_points(group=group):
            try:
                point.load()
            except Exception as error:  # whatever another package's module raises
                package = point.dist.name if point.dist is not None else point.value
                warnings.warn(
                    f"the package {package!r} adds {point.name!r} to {group}, which cannot be loaded "
                    f"({type(error).__name__}: {error}); it is left out",
                    stacklevel=3,
                )


def origin_of(*definitions: type | Callable[..., object]) -> str:
    """Where classes or functions are defined: "package.module.Name"."""
    return ", ".join(f"{d.__module__}.{getattr(d, '__qualname__', repr(d))}" for d in definitions)


def import_files(package: str, path: Iterable[str]) -> None:
    """Import every module of a package's own folder, so that each registers what it defines."""
    for found in sorted(pkgutil.iter_modules(path), key=lambda module: module.name):
        importlib.import_module(f"{package}.{found.name}")
