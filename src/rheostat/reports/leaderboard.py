"""A row with RobustBench's JSON keys (Croce et al., NeurIPS 2021) and additional fields for the dial."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rheostat.results.labels import point_label
from rheostat.results.row import Row


def entry(row: Row) -> dict[str, Any]:
    """Convert a `worst` row to a RobustBench entry: accuracies are texts in per cent, eps a fraction of 255.

    `autoattack_acc` is None unless AutoAttack was among the attacks. The key `rheostat` always holds the worst case
    with its attacks, n and interval.
    """
    attack = row.attack
    robust = f"{100 * row.robust_accuracy:.2f}"
    net = row.net
    return {
        "link": None,
        "name": f"{row.run}, {point_label(row)}",
        "authors": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": row.dataset,
        "venue": None,
        "architecture": net.get("name", "") if isinstance(net, dict) else net,
        "threat_model": {"linf": "Linf", "l2": "L2"}[attack.norm],
        "eps": _eps(attack.eps, attack.norm),
        "clean_acc": f"{100 * row.clean_accuracy:.2f}",
        "reported": None,
        "autoattack_acc": robust if "autoattack" in attack.names else None,
        "unreliable": bool(row.flags),
        "rheostat": {
            "at": row.at,
            "rule": row.rule,
            "robust_acc": robust,
            "attacks": list(attack.names),
            "tier": row.tier,
            "knowledge": row.knowledge,
            "n": row.n,
            "interval": row.interval.model_dump(mode="json"),
            "flags": list(row.flags),
            "macs": row.macs.model_dump(),
            "params": row.params,
            "artifact": row.artifact,
        },
    }


def _eps(eps: float, norm: str) -> str:
    """eps as RobustBench writes it: 8/255 if it is a multiple of 1/255, else the plain number."""
    share = Fraction(eps * 255).limit_denominator(100)
    if norm == "linf" and share.denominator == 1 and abs(float(share) / 255 - eps) < 1e-9:
        return f"{share.numerator}/255"
    return f"{eps:g}"
