"""Fills the generated parts of handwritten pages, which lie between two comments."""

from __future__ import annotations


def filled(page: str, name: str, content: str) -> str:
    """A page whose part between <!-- name --> and <!-- end --> is replaced; ValueError if it has no such part."""
    head, start, rest = page.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not start or not end:
        raise ValueError(f"no part {name!r} between <!-- {name} --> and <!-- end -->")
    return f"{head}{start}{content}{end}{tail}"
