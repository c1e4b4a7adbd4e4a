"""Numbers with units as text: 20M, 5ms, 8/255."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator

SCALES = {"k": 1e3, "M": 1e6, "G": 1e9, "us": 1e-3, "ms": 1.0, "s": 1e3}


def quantity(text: str, unit: str, what: str) -> float:
    """Convert 20M, 1.5G, 5ms or 0.2s to a number: milliseconds for times (`unit` "ms"), else units of one."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([a-zA-Z]*)", text.strip())
    allowed = ("us", "ms", "s") if unit else ("k", "M", "G")
    if match is None or match[2] not in ("", *allowed):
        raise ValueError(f"cannot read {what} {text!r}; write a number, followed by {', '.join(allowed)}")
    try:
        found = float(match[1]) * (SCALES[match[2]] if match[2] else 1.0)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is not a finite number: {text[:60]!r}")
    return found


def number(text: object) -> object:
    """Convert a number or a fraction such as "8/255" to a float."""
    if isinstance(text, str) and "/" in text:
        top, _, bottom = text.partition("/")
        try:
            return float(top) / float(bottom)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"not a number: {text[:60]!r}") from None
    return text


Fraction = Annotated[float, BeforeValidator(number)]
