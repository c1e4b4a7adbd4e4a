"""Read untrusted TOML files, with bounds on size and depth and therefore on the time of reading."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

LARGEST = 2**18
"""Maximum characters of a file; the packaged recipes have at most six thousand."""
DOTS = 200
"""Maximum dots in one line, because the time to parse a dotted key grows with the square of its parts."""
DEEPEST = 20
"""Maximum depth of nested tables and lists."""


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text; one-line ValueError if it is not TOML, too long, or nested too deeply."""
    if len(text) > LARGEST:
        raise ValueError(f"{where}: {len(text)} characters; at most {LARGEST} are allowed")
    if any(line.count(".") > DOTS for line in text.splitlines()):
        raise ValueError(f"{where}: more than {DOTS} dots in a line")
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number with too many digits is also a ValueError
        raise ValueError(f"{where}: not TOML ({error})") from None
    layer: list[Any] = [found]
    for _ in range(DEEPEST):
        layer = [inner for outer in layer for inner in (outer.values() if isinstance(outer, dict) else outer)]
        layer = [inner for inner in layer if isinstance(inner, dict | list)]
    if layer:
        raise ValueError(f"{where}: tables nested more than {DEEPEST} deep")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a regular TOML file; one-line ValueError if it is not a regular file, too long, or not TOML."""
    if not path.is_file():  # reading a pipe would block
        raise ValueError(f"no file {path}")
    with path.open("rb") as file:
        raw = file.read(4 * LARGEST + 1)
    try:
        return parse_toml(raw.decode(), str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not TOML (not UTF-8)") from None
