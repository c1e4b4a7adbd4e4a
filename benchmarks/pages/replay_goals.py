"""What the replays of arrivals show: the goals of the default controller cell by cell, and where it falls short."""

from __future__ import annotations

from collections import defaultdict

from markdown import table
from plain import Row

DEFAULT, BEFORE = "goodput", "slack"
WITHIN = 0.01
"""How far below the best fixed point the effective accuracy may lie."""
CLOSED = 0.5
"""The least share of the gap in answers in time, from the safest point to the oracle, that is to be closed."""
Cell = tuple[str, float]
CHANGES = ("late admission", "batches that fill", "every size", "equal worths")


def fixed(values: dict[str, float]) -> dict[str, float]:
    """Those of the fixed points, the ladder's first one first."""
    return {name: value for name, value in values.items() if name.startswith("only ")}


def windows(rows: list[Row]) -> dict[Cell, list[Row]]:
    """Trace × load → a row a window, that of the tuning first: effective accuracy and answers in time by policy."""
    found: dict[Cell, list[Row]] = defaultdict(list)
    tuned: dict[Cell, Row] = {}
    for r in rows:
        cell = (r["trace"], r["load"])
        if r["how"] == "simulated":
            if cell not in tuned:
                tuned[cell] = {"window": 0, "effective_clean": {}, "slo": {}}
                found[cell].insert(0, tuned[cell])
            for kind in ("effective_clean", "slo"):
                tuned[cell][kind][r["policy"]] = r[kind]
        elif r["how"] == "confirmed":
            found[cell].append(r)
    return dict(found)


def above(row: Row, policy: str = DEFAULT) -> float:
    """Effective accuracy (clean) above the best fixed point's, which is chosen with hindsight."""
    values = row["effective_clean"]
    return float(values[policy] - max(fixed(values).values()))


def closed(row: Row) -> float | None:
    """The share of the gap in answers in time that is closed; None where no oracle was asked."""
    values = row["slo"]
    if "oracle" not in values:
        return None
    safest = next(iter(fixed(values).values()))
    gap = values["oracle"] - safest
    return float((values[DEFAULT] - safest) / gap) if gap > 0 else 1.0


def verdict(load: float, rows: list[Row]) -> str:
    """met, or not met and in which windows."""
    low = [f"window {r['window']}: {100 * above(r):+.1f} points" for r in rows if above(r) < -WITHIN]
    gaps = [(r["window"], closed(r)) for r in rows] if load >= 1 else []
    low += [f"window {w}: {100 * g:.0f} % of the gap" for w, g in gaps if g is not None and g < CLOSED]
    return "met" if not low else f"not met ({'; '.join(low)})"


def goals(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """(the table of cells, claims)."""
    cells = windows(rows)
    if not cells:
        return "", []
    body = []
    for (trace, load), found in cells.items():
        first, others = found[0], found[1:]
        gaps = [g for g in map(closed, found) if g is not None] if load >= 1 else []
        body.append(
            [
                trace,
                f"{load:g}",
                f"{100 * above(first, BEFORE):+.1f} → {100 * above(first):+.1f}",
                *_spread([above(r, BEFORE) for r in others]),
                *_spread([above(r) for r in others]),
                f"{100 * min(gaps):.0f} %" if gaps else "",
                verdict(load, found),
            ]
        )
    head = ["trace", "load", f"{BEFORE} → {DEFAULT}, window 0", f"{BEFORE}: mean", "worst", f"{DEFAULT}: mean", "worst"]
    count = max(len(found) for found in cells.values()) - 1
    text = (
        f"\n#### The goals, cell by cell\n\nThe controller `{DEFAULT}` (the default) was made on window 0, the first "
        f"arrivals of each trace, and then judged once on {count} others: the windows of a trace that follow, and "
        f"other seeds of Poisson arrivals. Figures are points of effective accuracy (clean) above that of the best "
        f"fixed point, which is chosen with hindsight for each window; `{BEFORE}` is the default of before. "
        "The goal: at most 1 point below in every window, and at a load of 1 and more at least half of the gap in "
        "answers in time closed, "
        "from the safest fixed point to the oracle.\n\n"
    )
    text += table([*head, "least gap closed", "goal"], body)
    return text, _claims(cells)


def _spread(values: list[float]) -> list[str]:
    if not values:
        return ["", ""]
    return [f"{100 * sum(values) / len(values):+.1f}", f"{100 * min(values):+.1f}"]


def _claims(cells: dict[Cell, list[Row]]) -> list[list[str]]:
    every = [(cell, r) for cell, found in cells.items() for r in found]
    found = []
    for label, confirming in (("the window of the tuning", False), ("windows and seeds of confirmation", True)):
        chosen = [above(r) for _, r in every if (r["window"] > 0) == confirming]
        if chosen:
            found.append(
                [
                    f"effective accuracy (clean) within 1 point of the best fixed point's, simulated, {label}",
                    f"{sum(v >= -WITHIN for v in chosen)} of {len(chosen)} replays; at worst {100 * min(chosen):+.1f}",
                    "met" if min(chosen) >= -WITHIN else "not met",
                ]
            )
    met = sum(verdict(load, rows) == "met" for (_, load), rows in cells.items())
    found.append(
        [
            "both goals in all windows, by trace × load, simulated",
            f"{met} of {len(cells)} cells",
            "met" if met == len(cells) else "not met",
        ]
    )
    gaps = [g for (_, load), r in every if load >= 1 and (g := closed(r)) is not None]
    found.append(
        [
            "half of the gap in answers in time from the safest point to the oracle closed, load 1 to 1.5, simulated",
            f"{sum(g >= CLOSED for g in gaps)} of {len(gaps)} replays; at least {100 * min(gaps):.0f} %",
            "met" if min(gaps) >= CLOSED else "not met",
        ]
    )
    gained = [100 * (r["effective_clean"][DEFAULT] - r["effective_clean"][BEFORE]) for _, r in every]
    found.append(
        [
            f"{DEFAULT} against {BEFORE}, effective accuracy (clean), simulated",
            f"{min(gained):+.1f} to {max(gained):+.1f} points, mean {sum(gained) / len(gained):+.1f}",
            "better" if min(gained) > 0 else "better on average, not in each" if sum(gained) > 0 else "not better",
        ]
    )
    return found


def shortfall(rows: list[Row]) -> str:
    """Where the distance to the oracle comes from, a row a cell; empty where that was not measured."""
    kept = [r for r in rows if r["how"] == "shortfall"]
    if not kept:
        return ""
    body = []
    for r in kept:
        causal = max(r[k] for k in ("thresholds", DEFAULT, *CHANGES))
        body.append(
            [
                r["trace"],
                f"{r['load']:g}",
                str(r["window"]),
                *(f"{100 * r[k]:.1f}" for k in ("oracle", "thresholds", DEFAULT)),
                f"{100 * (r['oracle'] - causal):.1f}",
                f"{100 * (causal - r[DEFAULT]):.1f}",
                *(f"{100 * (r[k] - r[DEFAULT]):+.1f}" for k in CHANGES),
            ]
        )
    head = ["trace", "load", "window", "oracle", "thresholds, in hindsight", DEFAULT, "inherent", "policy"]
    text = (
        "\n#### Where the rest is lost\n\nOne thing is changed at a time, effective accuracy (clean). *Thresholds, in "
        "hindsight*: the point by how many requests wait, with the limits that were best for this very window. "
        "*Inherent*: the oracle minus the best of everything here that does not know the future. *Policy*: that best "
        f"minus `{DEFAULT}`. The last four columns are changes to `{DEFAULT}`: everybody is admitted and those who can "
        "no longer be answered are refused when a batch ends; batches wait to fill for 5, 10 or 20 % of the deadline "
        "(the best of the three); every size of batch is tried; answers of all points count the same.\n\n"
    )
    return text + table([*head, *CHANGES], body) + _reading(kept)


def _reading(kept: list[Row]) -> str:
    """What the table says, in sentences."""
    lost = sum(r["oracle"] - r[DEFAULT] for r in kept)
    causal = [max(r[k] for k in ("thresholds", DEFAULT, *CHANGES)) for r in kept]
    inherent = sum(r["oracle"] - c for r, c in zip(kept, causal, strict=True))
    admission, fill, size = (max(abs(r[k] - r[DEFAULT]) for r in kept) for k in CHANGES[:3])
    gained = max(r["thresholds"] - r[DEFAULT] for r in kept)
    return (
        f"\nOf all that `{DEFAULT}` loses to the oracle over these cells, at most {100 * inherent / lost:.0f} % is "
        "inherent: no rule tried that does not know the future reaches it (a better one may exist). Late instead "
        f"of early admission changes a cell by at most {100 * admission:.1f} points, waiting for batches to fill by "
        f"{100 * fill:.1f}, more sizes of batch by {100 * size:.1f}; thresholds that know the window gain at most "
        f"{100 * gained:.1f}.\n"
    )
