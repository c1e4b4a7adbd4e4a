"""Small tables as HTML, for notebooks; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table with a header line."""

    def cells(tag: str, values: Iterable[str]) -> str:
        return "".join(f"<{tag}>{escape(v)}</{tag}>" for v in values)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', heads)}</tr></thead><tbody>{body}</tbody></table>"
