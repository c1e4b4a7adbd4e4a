"""Pages that are written by hand, with parts between two comments that are made from rows."""

from __future__ import annotations


def filled(page: str, name: str, content: str) -> str:
    """A page with what stands between <!-- name --> and <!-- end --> exchanged; ValueError if that is not there."""
    head, start, rest = page.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not start or not end:
        raise ValueError(f"no part {name!r} between <!-- {name} --> and <!-- end -->")
    return f"{head}{start}{content}{end}{tail}"
