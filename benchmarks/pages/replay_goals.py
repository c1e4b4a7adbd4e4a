"""The goals of the default controller in replays of arrivals, cell by cell, and where it falls short."""

from __future__ import annotations

from collections import defaultdict

from markdown import table
from plain import Row

DEFAULT, BEFORE = "goodput", "slack"
WITHIN = 0.01
"""The largest allowed shortfall of effective accuracy from the best fixed point."""
CLOSED = 0.5
"""The share of the gap in answers in time, from the safest point to the oracle, that must be closed."""
Cell = tuple[str, float]
CHANGES = ("late admission", "batches that fill", "every size", "equal worths")


def fixed(values: dict[str, float]) -> dict[str, float]:
    """The values of the fixed points, beginning with the first point of the ladder."""
    return {name: value for name, value in values.items() if name.startswith("only ")}


def windows(rows: list[Row]) -> dict[Cell, list[Row]]:
    """(trace, load) → one row per window, the window of the tuning first, with the results of each policy."""
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
    """Effective accuracy (clean) minus that of the best fixed point, which is chosen in hindsight."""
    values = row["effective_clean"]
    return float(values[policy] - max(fixed(values).values()))


def closed(row: Row) -> float | None:
    """The share of the gap in answers in time that is closed; None without results of the oracle."""
    values = row["slo"]
    if "oracle" not in values:
        return None
    safest = next(iter(fixed(values).values()))
    gap = values["oracle"] - safest
    return float((values[DEFAULT] - safest) / gap) if gap > 0 else 1.0


def verdict(load: float, rows: list[Row]) -> str:
    """The verdict of a cell: "met", or "not met" with the windows at fault."""
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
    head = ["trace", "load", f"{BEFORE} → {DEFAULT}, window 0"]
    head += [f"{policy}, other windows: {kind}" for policy in (BEFORE, DEFAULT) for kind in ("mean", "worst")]
    count = max(len(found) for found in cells.values()) - 1
    text = (
        f"\n#### The goals, cell by cell\n\nThe default controller `{DEFAULT}` was tuned on window 0, the first "
        f"arrivals of each trace. It was then tested once on {count} other windows: later ones of the traces, and "
        f"other seeds of the Poisson process. `{BEFORE}` is the previous default. Figures are the effective accuracy "
        "(clean) minus that of the best fixed point, in points; that point is chosen in hindsight for each "
        "window.\n\nThere are two goals. In every window, the controller is at most 1 point below that fixed point. At "
        "a load of 1 or more, it closes at least half of the gap in answers in time between the safest fixed point and "
        "the oracle.\n\n"
    )
    text += table([*head, "smallest share of the gap closed", "both goals"], body)
    return text, _claims(cells)


def _spread(values: list[float]) -> list[str]:
    if not values:
        return ["", ""]
    return [f"{100 * sum(values) / len(values):+.1f}", f"{100 * min(values):+.1f}"]


def _claims(cells: dict[Cell, list[Row]]) -> list[list[str]]:
    every = [(cell, r) for cell, found in cells.items() for r in found]
    found = []
    for label, confirming in (("window of the tuning", False), ("other windows and seeds", True)):
        chosen = [above(r) for _, r in every if (r["window"] > 0) == confirming]
        if chosen:
            found.append(
                [
                    f"effective accuracy (clean) within 1 point of the best fixed point's, simulated, {label}",
                    f"{sum(v >= -WITHIN for v in chosen)} of {len(chosen)} replays; at worst {100 * min(chosen):+.1f} "
                    "points",
                    "met" if min(chosen) >= -WITHIN else "not met",
                ]
            )
    met = sum(verdict(load, rows) == "met" for (_, load), rows in cells.items())
    found.append(
        [
            "both goals in all windows of a cell (trace × load), simulated",
            f"{met} of {len(cells)} cells",
            "met" if met == len(cells) else "not met",
        ]
    )
    gaps = [g for (_, load), r in every if load >= 1 and (g := closed(r)) is not None]
    found.append(
        [
            "half of the gap in answers in time between safest point and oracle closed, load 1 to 1.5, simulated",
            f"{sum(g >= CLOSED for g in gaps)} of {len(gaps)} replays; smallest share {100 * min(gaps):.0f} %",
            "met" if min(gaps) >= CLOSED else "not met",
        ]
    )
    gained = [100 * (r["effective_clean"][DEFAULT] - r["effective_clean"][BEFORE]) for _, r in every]
    found.append(
        [
            f"effective accuracy (clean), `{DEFAULT}` minus `{BEFORE}`, simulated",
            f"{min(gained):+.1f} to {max(gained):+.1f} points, mean {sum(gained) / len(gained):+.1f}",
            "better"
            if min(gained) > 0
            else "better on average, not in all replays"
            if sum(gained) > 0
            else "not better",
        ]
    )
    return found


def shortfall(rows: list[Row]) -> str:
    """The sources of the shortfall from the oracle, one row per cell; empty if they were not measured."""
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
    head = ["trace", "load", "window", "oracle", "thresholds in hindsight", DEFAULT, "inherent", "policy"]
    text = (
        "\n#### Where the rest is lost\n\nFigures are effective accuracies (clean). *Thresholds in hindsight* selects "
        "the point by the number of waiting requests, with the limits that were best for this window. *Inherent* is "
        "the oracle minus the best policy here that does not know the future. *Policy* is that best minus "
        f"`{DEFAULT}`.\n\nThe last four columns are the gains by one change to `{DEFAULT}` at a time:\n\n"
        "- *late admission*: every request is admitted, and those that can no longer be answered in time are refused "
        "when a batch ends;\n"
        "- *batches that fill*: a batch waits to fill for 5, 10 or 20 % of the deadline (the best of the three);\n"
        "- *every size*: every batch size is tried;\n"
        "- *equal worths*: the answers of all points count the same.\n\n"
    )
    return text + table([*head, *CHANGES], body) + _reading(kept)


def _reading(kept: list[Row]) -> str:
    """The findings of the table, in sentences."""
    lost = sum(r["oracle"] - r[DEFAULT] for r in kept)
    causal = [max(r[k] for k in ("thresholds", DEFAULT, *CHANGES)) for r in kept]
    inherent = sum(r["oracle"] - c for r, c in zip(kept, causal, strict=True))
    admission, fill, size = (max(abs(r[k] - r[DEFAULT]) for r in kept) for k in CHANGES[:3])
    gained = max(r["thresholds"] - r[DEFAULT] for r in kept)
    return (
        f"\nAt most {100 * inherent / lost:.0f} % of what `{DEFAULT}` loses to the oracle in these cells is inherent: "
        "no rule tried here that does not know the future recovers it, but a better rule may exist. Late admission "
        f"changes a cell by at most {100 * admission:.1f} points, waiting for batches to fill by at most "
        f"{100 * fill:.1f} and more batch sizes by at most {100 * size:.1f}. Thresholds that know the window gain at "
        f"most {100 * gained:.1f} points.\n"
    )
