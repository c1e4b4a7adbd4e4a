"""Tiers, the sets of attacks of a worst case (EVALUATION.md, 2), collected from the attacks' own entries."""

from __future__ import annotations

from rheostat.attacks import ATTACKS, TierEntry
from rheostat.attacks.base import FIXED_TIERS
from rheostat.attacks.reference import LEAST_CLASSES
from rheostat.runtime.choices import nearest

VERSION = 2
"""Version of the tiers: of their attacks and of how images are scored. Rows record it, because both may change.

1: Square with 1 000 queries, the beginning of its schedule; images are scored as attacks return them.
2: Square with 2 000 queries over its whole schedule; images are scored as returned and rounded to 8 bits.
"""


def _entries(tier: str) -> list[TierEntry]:
    """The attacks of a tier in order; empty if no attack names the tier."""
    found = [entry for kind in ATTACKS.values() for entry in kind.tiers if tier in entry.tiers]
    return sorted(found, key=lambda entry: entry.order)


def tier_names() -> list[str]:
    """The names of all tiers: quick, standard, full, and those that attacks of other packages add."""
    own = sorted({tier for kind in ATTACKS.values() for entry in kind.tiers for tier in entry.tiers})
    return [*FIXED_TIERS, *(tier for tier in own if tier not in FIXED_TIERS)]


def attacks_of(tier: str, classes: int) -> list[str]:
    """The names of a tier's attacks for a data set with `classes` classes. Raises ValueError for an unknown tier.

    Each attack runs only on images that the earlier ones failed to fool; `pgd20` comes first, so that its gap to the
    worst case is visible.
    """
    entries = _entries(tier)
    if not entries:
        raise ValueError(f"no tier {tier!r}; {nearest(tier, tier_names())}")
    return [e.few_classes if e.few_classes and classes < LEAST_CLASSES else e.attack for e in entries]


def untargeted(tier: str, classes: int) -> bool:
    """Whether the tier runs without targeted losses because there are too few classes."""
    return classes < LEAST_CLASSES and any(entry.few_classes for entry in _entries(tier))
