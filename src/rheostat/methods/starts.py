"""What masks start from: random places, or the largest weights where the network brings trained ones."""

from __future__ import annotations

from rheostat.nets.adopted import Adopted
from rheostat.nets.base import Net

STARTS = ("auto", "random", "magnitude")


def by_magnitude(start: str, net: Net) -> bool:
    """Whether masks keep the largest weights; "auto" does on an adopted network, which brings trained ones."""
    return start == "magnitude" or (start == "auto" and isinstance(net, Adopted))
