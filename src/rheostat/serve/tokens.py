"""Bearer tokens: several may be valid at once, and their file may change while the server runs."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from rheostat.data.base import read_regular

SHORTEST, LARGEST = 16, 2**16


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _strong(texts: Iterable[str], where: str) -> tuple[bytes, ...]:
    found = tuple(texts)
    for text in found:
        if len(text) < SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(
                f"{where}: a token has at least {SHORTEST} ASCII characters and no blanks, given {len(text)} "
                "characters; make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
    return tuple(_digest(text) for text in found)


class Tokens:
    """A set of valid tokens: fixed texts, and a file with one token per line (# starts a comment).

    The file is read again when it changes. To rotate a token, add the new one, switch the clients, then remove the
    old one. If a change makes the file invalid, the previous tokens stay valid.
    """

    def __init__(self, texts: Iterable[str] = (), path: Path | None = None) -> None:
        self.fixed = _strong(texts, "the token")
        self.path = path
        self.listed: tuple[bytes, ...] = ()
        self.version: tuple[int, ...] | None = None
        if path is not None:
            self._read(path)

    def __bool__(self) -> bool:
        return bool(self.fixed or self.listed or self.path)

    def holds(self, given: str) -> bool:
        """Whether this is one of the tokens. It is compared with all of them, each in constant time."""
        self._follow()
        digest = _digest(given)
        # The sum makes sure that no comparison is skipped.
        return sum(secrets.compare_digest(digest, known) for known in (*self.fixed, *self.listed)) > 0

    def _read(self, path: Path) -> None:
        version = self._version(path)
        text = read_regular(path, LARGEST).decode("utf-8", "replace")
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        listed = _strong((line for line in lines if line), str(path))
        if not listed:
            raise ValueError(f"{path}: the file holds no token")
        self.listed, self.version = listed, version

    def _follow(self) -> None:
        if self.path is None:
            return
        try:
            if self._version(self.path) != self.version:
                self._read(self.path)
        except (OSError, ValueError):
            return

    @staticmethod
    def _version(path: Path) -> tuple[int, ...]:
        about = path.stat()
        return about.st_mtime_ns, about.st_size, about.st_ino
