"""Tiers: which attacks make a worst case (EVALUATION.md, 2)."""

from __future__ import annotations

from rheostat.attacks.autoattack import LEAST_CLASSES
from rheostat.runtime.choices import nearest

VERSION = 1
"""Of the choice below; rows name it, for the attacks of a tier may change."""
TIERS: dict[str, tuple[str, ...]] = {
    "quick": ("pgd20",),
    "standard": ("pgd20", "fgsm", "mi-fgsm", "apgd-ce", "apgd-t", "square"),
    "full": ("pgd20", "fgsm", "mi-fgsm", "apgd-ce", "apgd-t", "square", "autoattack"),
}
"""Each runs on what the attacks before it left standing; `pgd20` first, so that its gap can be told."""
UNTARGETED = {"apgd-t": "pgd100-margin"}
"""With fewer than 4 classes: targeted DLR is not defined."""


def attacks_of(tier: str, classes: int) -> list[str]:
    """The names of a tier's attacks for a data set with so many classes."""
    if tier not in TIERS:
        raise ValueError(f"no tier {tier!r}; {nearest(tier, TIERS)}")
    if classes >= LEAST_CLASSES:
        return list(TIERS[tier])
    return [UNTARGETED.get(name, name) for name in TIERS[tier]]


def untargeted(tier: str, classes: int) -> bool:
    """Whether the tier had to do without targeted losses."""
    return classes < LEAST_CLASSES and any(name in UNTARGETED for name in TIERS.get(tier, ()))
