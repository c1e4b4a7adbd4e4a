"""The self-contained HTML page of a report, made from rows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.reports import evaluation_plots as plots
from rheostat.reports.dial_plots import along_dial, as_bytes, trade_off
from rheostat.reports.exit_plots import accuracy_against_macs, live, shares_per_exit
from rheostat.reports.leaderboard import entry
from rheostat.reports.templating import render
from rheostat.results.comparison import Comparison
from rheostat.results.corrupted import ABOUT, corruption_table
from rheostat.results.flags import NAMES
from rheostat.results.labels import (
    attacker_lines,
    attacks_label,
    eps_label,
    gap_lines,
    percent,
    point_label,
    worst_rows,
)
from rheostat.results.row import Row
from rheostat.runtime.files import write_bytes, write_text

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure


def page(
    rows: list[Row], *, title: str, recipe: dict[str, Any] | None = None, comparisons: Sequence[Comparison] = ()
) -> str:
    """The whole report as one HTML text that needs no other file."""
    worst, corrupted = worst_rows(rows), corruption_table(rows)
    if not worst and corrupted is None:
        raise ValueError("there are no rows to report; run `rheostat evaluate` first")
    first = (worst or rows)[0]
    measured_on = {"versions": first.versions, "hardware": first.hardware.model_dump(exclude_none=True)}
    return render(
        "report.html.j2",
        title=title,
        measured=_measured(worst),
        flags=_flags(rows),
        curves=_curves(rows),
        points=_points(worst) if worst else None,
        notes=[*gap_lines(rows), *attacker_lines(rows)],
        comparisons=[compared_html(c) for c in comparisons],
        checks=[
            _section(name, about, figure, photo=draw is plots.examples)
            for name, about, draw in CHECKS
            if (figure := draw(rows)) is not None
        ],
        classes=_per_class(worst),
        corrupted=corrupted,
        about_corrupted=ABOUT,
        recipe=json.dumps(recipe, indent=1) if recipe else None,
        measured_on=json.dumps(measured_on, indent=1),
    )


CHECKS = (
    (
        "What the attacker knows",
        "RA on images made at one point and scored at another. In each column, no cell should be below the diagonal.",
        plots.transfer_map,
    ),
    ("Attack by attack", "Each attack runs only on images that the earlier ones failed to fool.", plots.ladder),
    ("Against the radius", "Robust accuracy must fall as the radius grows, and reach chance level.", plots.eps_curves),
    ("The attack's loss", "The loss should stop rising before the last step.", plots.loss_curves),
    (
        "Calibration",
        "Accuracy against confidence on clean images; ECE is the mean distance from the diagonal. Bins with fewer "
        f"than {plots.FEWEST} images are left out.",
        plots.reliability,
    ),
    (
        "Worst images",
        "Successful perturbations with the largest margins: the image and its label, the perturbation δ, scaled by the "
        "factor above it, and the adversarial image with the model's prediction.",
        plots.examples,
    ),
)
"""(title, what to look for, plot) of each check; a plot function returns None if the rows lack its data."""


def _section(title: str, about: str, *figures: Figure, alts: Sequence[str] = (), photo: bool = False) -> dict[str, Any]:
    """A heading, a sentence and figures, each with an alternative text (by default the heading).

    `photo` marks figures of images, whose colours a dark page must not change.
    """
    return {
        "title": title,
        "about": about,
        "figures": [
            {
                "alt": alt,
                "kind": "photo" if photo else "plot",
                "data": base64.b64encode(as_bytes(figure, "svg")).decode(),
            }
            for figure, alt in zip(figures, alts or [title] * len(figures), strict=True)
        ],
    }


def _curves(rows: list[Row]) -> list[dict[str, Any]]:
    """The trade-off, accuracy along the dial, and exits if there are any; nothing if no row is under attack."""
    if not worst_rows(rows):
        return []
    out = [_section("The trade-off", "", trade_off(rows), alts=["standard against robust accuracy"])]
    if any("robustness" in r.at for r in worst_rows(rows)):
        out.append(_section("Along the dial", "", along_dial(rows), alts=["accuracy along the robustness dial"]))
    if live(rows):
        about = "The cost of an image includes every exit head up to the one by which it leaves."
        alts = ["accuracy against mean MACs", "share of images per exit, clean and attacked"]
        out.append(_section("Exits", about, accuracy_against_macs(rows), shares_per_exit(rows), alts=alts))
    return out


def _measured(worst: list[Row]) -> str:
    """The attacks, tier, split and number of images of the rows, without repetition."""
    if not worst:
        return "No row is under attack: robust accuracy was not measured."

    def each(values: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    return (
        f"Attacks: {each(n for r in worst for n in r.attack.names)}; "
        f"{each(f'{r.attack.norm} {eps_label(r.attack.eps)}' for r in worst)}; tier {each(r.tier for r in worst)}; "
        f"split {each(r.split for r in worst)}; n {each(str(r.n) for r in worst)}."
    )


def _flags(rows: list[Row]) -> list[dict[str, Any]]:
    """The flags raised in training and evaluation, with their points and their descriptions."""
    return [
        {
            "name": name,
            "points": list(dict.fromkeys(f"{r.run}, {point_label(r)}" for r in rows if name in r.flags)),
            "known": NAMES.get(name),
        }
        for name in sorted({f for r in rows for f in r.flags})
    ]


def _points(worst: list[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(head, body) of the table of all points."""
    head = (
        "run",
        "point",
        "SA % [95 %]",
        "RA % [95 %]",
        "attacks",
        "eps",
        "tier",
        "split",
        "n",
        "MACs",
        "seconds",
        "flags",
    )
    body: list[tuple[str, ...]] = []
    for row in worst:
        attack = row.attack
        body.append(
            (
                row.run,
                point_label(row),
                percent(row.clean_accuracy, row.interval.clean),
                percent(row.robust_accuracy, row.interval.robust),
                attacks_label(row),
                f"{attack.norm} {eps_label(attack.eps)}",
                row.tier,
                row.split,
                str(row.n),
                f"{row.macs.mean / 1e6:.2f} M",
                f"{row.seconds or 0:.1f}",
                ", ".join(row.flags) or "none",
            )
        )
    return head, body


def compared_html(found: Comparison) -> Markup:
    """Paired differences of two runs, with their conclusions, as HTML."""
    return render(
        "comparison.html.j2",
        names=found.names,
        n=found.n,
        under=found.under,
        head=("point", "SA, points", "", "RA, points", ""),
        points=[(label, sa.text(), sa.verdict, ra.text(), ra.verdict) for label, sa, ra in found.points],
        area=found.area,
        above=f"{100 * found.above:.1f}",
    )


def _per_class(worst: list[Row]) -> tuple[list[str], list[list[str]]] | None:
    """(head, body) of SA and RA per class at a few points; None if the rows lack them."""
    shown = plots.some([r for r in worst if r.per_class])
    found = [(r, r.per_class) for r in shown if r.per_class]
    if not found:
        return None
    classes = found[0][1].classes
    body = []
    for row, of in found:
        if of.classes == classes:
            values = zip(of.clean, of.robust, strict=True)
            body.append([plots.row_name(row, shown), *(f"{_whole(a)} / {_whole(b)}" for a, b in values)])
    return ["point", *classes], body


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def write_report(
    rows: list[Row],
    out: Path,
    *,
    title: str,
    recipe: dict[str, Any] | None = None,
    comparisons: Sequence[Comparison] = (),
) -> list[Path]:
    """Write report.html, robustbench.json, trade_off.png and trade_off.svg into a folder; return their paths.

    Without a row under attack there is no trade-off to plot, and the last two are left out.
    """
    plotted = ("trade_off.png", "trade_off.svg") if worst_rows(rows) else ()
    paths = [out / n for n in ("report.html", "robustbench.json", *plotted)]
    write_text(paths[0], page(rows, title=title, recipe=recipe, comparisons=comparisons))
    entries = [entry(r) for r in worst_rows(rows)]
    write_text(paths[1], json.dumps(entries, indent=1) + "\n")
    for path in paths[2:]:
        write_bytes(path, as_bytes(trade_off(rows, title=title), path.suffix[1:]))
    return paths
