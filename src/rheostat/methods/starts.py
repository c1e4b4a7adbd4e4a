"""The initial masks: random, or the largest weights if the network is already trained."""

from __future__ import annotations

from rheostat.nets.adopted import Adopted
from rheostat.nets.base import Net

STARTS = ("auto", "random", "magnitude")


def by_magnitude(start: str, net: Net) -> bool:
    """Whether masks keep the largest weights; "auto" does so on an adopted network, whose weights are trained."""
    return start == "magnitude" or (start == "auto" and isinstance(net, Adopted))
