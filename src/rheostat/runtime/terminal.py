"""Text from files and requests, made safe to show: what a terminal would obey becomes visible."""

from __future__ import annotations

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are escaped: controls, invisible formats (among them those that reverse text), lone
surrogates, and separators of lines and paragraphs."""


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with every control character as its escape: ESC becomes `\x1b`. Those in `keep` stay.

    A title, a colour or a cursor movement from a file would otherwise rewrite what a terminal shows.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c not in keep and unicodedata.category(c) in HIDDEN else c for c in text
    )
