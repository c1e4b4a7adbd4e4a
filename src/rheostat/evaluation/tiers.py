"""Tiers: which attacks make a worst case (EVALUATION.md, 2), put together from what attacks say of themselves."""

from __future__ import annotations

from rheostat.attacks import ATTACKS, TierEntry
from rheostat.attacks.base import FIXED_TIERS
from rheostat.attacks.reference import LEAST_CLASSES
from rheostat.runtime.choices import nearest

VERSION = 2
"""Of the choice of attacks and of how their images are judged; rows name it, for both may change.

1: Square of 1 000 queries without the whole schedule; images judged as attacks return them. 2: Square of 2 000
queries through the whole schedule; images judged as returned and rounded to 8 bits.
"""


def _entries(tier: str) -> list[TierEntry]:
    """Its attacks in order; empty where no attack names the tier."""
    found = [entry for kind in ATTACKS.values() for entry in kind.tiers if tier in entry.tiers]
    return sorted(found, key=lambda entry: entry.order)


def tier_names() -> list[str]:
    """The tiers there are: quick, standard, full, and those of other packages' attacks."""
    own = sorted({tier for kind in ATTACKS.values() for entry in kind.tiers for tier in entry.tiers})
    return [*FIXED_TIERS, *(tier for tier in own if tier not in FIXED_TIERS)]


def attacks_of(tier: str, classes: int) -> list[str]:
    """The names of a tier's attacks for a data set with so many classes.

    Each runs only on images that the earlier ones failed to fool; `pgd20` comes first, so that its gap to the worst
    case can be seen.
    """
    entries = _entries(tier)
    if not entries:
        raise ValueError(f"no tier {tier!r}; {nearest(tier, tier_names())}")
    return [e.few_classes if e.few_classes and classes < LEAST_CLASSES else e.attack for e in entries]


def untargeted(tier: str, classes: int) -> bool:
    """Whether the tier had to do without targeted losses."""
    return classes < LEAST_CLASSES and any(entry.few_classes for entry in _entries(tier))
