"""Migrate rows of versions 1 (files without a `version`) and 2 to version 3."""

from __future__ import annotations

from typing import Any

NEVER_SET = ("reported", "latency_ms")
"""Fields of version 1 that no row ever used."""


def migrated(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of version 1 or 2 to version 3; return other rows unchanged.

    Version 3 only adds fields to version 2. All rows of version 1 were judged in fp32, under version 1 of the tiers.
    Positions under a rule between norm sets are training λ; all other positions were printed as t.
    """
    if row.get("version") == 2:
        return {**row, "version": 3}
    if "version" in row:
        return row
    kept = {k: v for k, v in row.items() if k not in NEVER_SET and v is not None}
    kept |= {"version": 3, "precision": "fp32", "tier_version": 1}
    if "robustness" in row.get("at", {}):
        kept["dial"] = "t" if row.get("rule") is None else "lambda"
    if "checks" in kept:
        kept["checks"] = [_check(check) for check in kept["checks"]]
    return kept


def _check(old: dict[str, Any]) -> dict[str, Any]:
    figures = {k: v for k, v in old.items() if k not in ("flag", "made at")}
    made = {"made_at": old["made at"]} if "made at" in old else {}
    return {"flag": old["flag"], "figures": figures, **made}
