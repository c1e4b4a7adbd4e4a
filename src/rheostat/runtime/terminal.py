"""Make text from files and requests safe to show in a terminal, by escaping control characters."""

from __future__ import annotations

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are escaped: controls, invisible formatting (such as text-direction overrides), lone
surrogates, and line and paragraph separators."""


def visible(text: str, *, keep: str = "") -> str:
    r"""Replace every control character by its escape: ESC becomes `\x1b`. Characters in `keep` stay.

    Otherwise escape sequences in a file could change the terminal's title, colours or cursor position.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c not in keep and unicodedata.category(c) in HIDDEN else c for c in text
    )
