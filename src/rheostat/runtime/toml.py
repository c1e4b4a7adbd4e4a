"""TOML files from elsewhere: bounded in size and depth, and so in the time that reading takes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

LARGEST = 2**18
"""Characters of the largest file; ours have six thousand."""
DOTS = 200
"""Dots in one line: the time of a dotted key grows with the square of its parts."""
DEEPEST = 20
"""Tables and lists inside each other."""


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The values of a file; ValueError in one line for what is not TOML, or is too long or nested too deeply."""
    if len(text) > LARGEST:
        raise ValueError(f"{where}: {len(text)} characters; at most {LARGEST} are read")
    if any(line.count(".") > DOTS for line in text.splitlines()):
        raise ValueError(f"{where}: more than {DOTS} dots in a line")
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of too many digits
        raise ValueError(f"{where}: not TOML ({error})") from None
    layer: list[Any] = [found]
    for _ in range(DEEPEST):
        layer = [inner for outer in layer for inner in (outer.values() if isinstance(outer, dict) else outer)]
        layer = [inner for inner in layer if isinstance(inner, dict | list)]
    if layer:
        raise ValueError(f"{where}: tables nested more than {DEEPEST} deep")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a regular file; ValueError in one line where it is none, too long, or not TOML."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"no file {path}")
    with path.open("rb") as file:
        raw = file.read(4 * LARGEST + 1)
    try:
        return parse_toml(raw.decode(), str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not TOML (not UTF-8)") from None
