"""Plots and the self-contained HTML page, from rows alone."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.reports import evaluation_plots as plots
from rheostat.reports.exit_plots import accuracy_against_macs, live, shares_per_exit
from rheostat.reports.leaderboard import entry
from rheostat.results.comparison import Comparison
from rheostat.results.curves import curve_names, curves
from rheostat.results.flags import NAMES
from rheostat.results.labels import attacker_lines, gap_lines, percent, point_label, worst_rows
from rheostat.results.row import Row
from rheostat.runtime.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def trade_off(rows: list[Row], *, title: str = "") -> Figure:
    """SA against RA: one mark per point, 95 % intervals drawn; a curve joins rows that differ in their points alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    lines = list(curves(worst_rows(rows)).values())
    for i, (found, name) in enumerate(zip(lines, curve_names(lines), strict=True)):
        x = [100 * r.robust_accuracy for r in found]
        y = [100 * r.clean_accuracy for r in found]
        spread = [
            [[100 * abs(interval[side] - value) for value, interval in kind] for side in (0, 1)]
            for kind in ([r.accuracy(k) for r in found] for k in ("robust", "clean"))
        ]
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        axes.errorbar(
            x,
            y,
            xerr=spread[0],
            yerr=spread[1],
            color=colour,
            marker=mark,
            markersize=5,
            linewidth=1.2,
            elinewidth=0.6,
            capsize=2,
            label=name,
            alpha=0.9,
        )
        flagged = [(a, b) for a, b, r in zip(x, y, found, strict=True) if r.flags]
        for a, b in flagged:
            axes.annotate("⚑", (a, b), xytext=(4, 4), textcoords="offset points", color="#B00020")
        if len(found) > 1:
            for place in (0, len(found) - 1):
                axes.annotate(
                    f"{next(iter(found[place].at.values())):g}" if found[place].at else "",
                    (x[place], y[place]),
                    xytext=(6, 6),
                    textcoords="offset points",
                    fontsize=8,
                    color=colour,
                )
    axes.set_xlabel("robust accuracy, % (worst case over the attacks run)")
    axes.set_ylabel("clean accuracy, %")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    if len(lines) > 1:
        axes.legend(fontsize=8)
    return figure


def along_dial(rows: list[Row]) -> Figure:
    """SA and RA against the dial's position, with intervals as bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    found = [r for r in worst_rows(rows) if "robustness" in r.at]
    lines = list(curves(found, along="robustness").values())
    for i, (line, run) in enumerate(zip(lines, curve_names(lines), strict=True)):
        t = [r.at["robustness"] for r in line]
        for kind, style in (("clean", "-"), ("robust", "--")):
            values = [100 * r.accuracy(kind)[0] for r in line]
            low = [100 * r.accuracy(kind)[1][0] for r in line]
            high = [100 * r.accuracy(kind)[1][1] for r in line]
            colour, name = COLOURS[i % len(COLOURS)], f"{run} {kind}"
            axes.plot(t, values, style, color=colour, marker=MARKS[i % len(MARKS)], markersize=4, label=name)
            axes.fill_between(t, low, high, color=colour, alpha=0.12)
    axes.set_xlabel("robustness dial")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def as_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as PNG or SVG."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}
    figure.savefig(buffer, format=kind, dpi=150, **options)
    return buffer.getvalue()


def _embedded(figure: Figure, alt: str) -> str:
    data = base64.b64encode(as_bytes(figure, "svg")).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def _table(rows: list[Row]) -> str:
    head = ("run", "point", "SA % [95 %]", "RA % [95 %]", "attacks", "eps", "split", "n", "MACs", "seconds", "flags")
    body = []
    for row in worst_rows(rows):
        attack = row.attack
        cells = (
            row.run,
            point_label(row),
            percent(row.clean_accuracy, row.interval.clean),
            percent(row.robust_accuracy, row.interval.robust),
            ", ".join(attack.names),
            f"{attack.norm} {attack.eps:.4g}",
            row.split,
            str(row.n),
            f"{row.macs.mean / 1e6:.2f} M",
            f"{row.seconds or 0:.1f}",
            ", ".join(row.flags) or "none",
        )
        body.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    header = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    return f"<div class=wide><table><tr>{header}</tr>{''.join(body)}</table></div>"


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;color:#1a1a1a}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}img{max-width:100%;height:auto}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;white-space:nowrap}
td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left}th{background:#f5f5f5}
pre{background:#f5f5f5;padding:.7rem;overflow-x:auto;font-size:.8rem}
.flag{color:#b00020;font-weight:600}
"""


def page(
    rows: list[Row], *, title: str, recipe: dict[str, Any] | None = None, comparisons: Sequence[Comparison] = ()
) -> str:
    """The whole report as one HTML text that needs nothing else."""
    worst = worst_rows(rows)
    if not worst:
        raise ValueError("there are no rows to report; run `rheostat evaluate` first")
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        "<p>Robust accuracy is measured under the attacks named, white-box at the very point that is "
        "scored; a stronger attack can only lower it. Brackets are exact 95 % intervals.</p>",
        _flags(worst),
        "<h2>The trade-off</h2>",
        _embedded(trade_off(rows), "clean against robust accuracy"),
    ]
    if any("robustness" in r.at for r in worst):
        parts += ["<h2>Along the dial</h2>", _embedded(along_dial(rows), "accuracy along the robustness dial")]
    if live(rows):
        parts += [
            "<h2>Exits</h2>",
            "<p>An exit that is passed has been paid for: the cost of a row counts every head before "
            "the one it leaves by.</p>",
            _embedded(accuracy_against_macs(rows), "accuracy against mean MACs"),
            _embedded(shares_per_exit(rows), "share of images per exit, clean and attacked"),
        ]
    parts += ["<h2>Every point</h2>", _table(rows)]
    notes = [*gap_lines(rows), *attacker_lines(rows)]
    if notes:
        parts.append("<ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in notes) + "</ul>")
    parts += [_compared(c) for c in comparisons]
    for title_, about_, draw in SECTIONS:
        figure = draw(rows)
        if figure is not None:
            parts += [f"<h2>{title_}</h2>", f"<p>{about_}</p>", _embedded(figure, title_)]
    if any(r.per_class for r in worst):
        parts += ["<h2>Per class</h2>", _per_class(worst)]
    if recipe:
        parts += ["<h2>Recipe</h2>", f"<pre>{html.escape(json.dumps(recipe, indent=1))}</pre>"]
    about = {"versions": worst[0].versions, "hardware": worst[0].hardware.model_dump(exclude_none=True)}
    parts += ["<h2>Where</h2>", f"<pre>{html.escape(json.dumps(about, indent=1))}</pre>"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _compared(found: Comparison) -> str:
    """Paired differences of two runs, and what they come to."""
    first, second = found.names
    rows = ""
    for label, clean, robust in found.points:
        cells = (label, clean.text(), clean.verdict, robust.text(), robust.verdict)
        rows += "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>"
    area = (
        ""
        if found.area is None
        else (
            f"<p>Area under the dial, above SA {100 * found.above:.1f} %: {found.area.text(1e4, 0)} square points, "
            f"<b>{found.area.verdict}</b>.</p>"
        )
    )
    return (
        f"<h2>{html.escape(first)} less {html.escape(second)}</h2><p>On the same {found.n} images, paired 95 % "
        f"intervals, each by itself: {html.escape(found.under)}.</p><div class=wide><table><tr><th>point</th>"
        f"<th>SA, points</th><th></th><th>RA, points</th><th></th></tr>{rows}</table></div>{area}"
    )


SECTIONS = (
    (
        "What the attacker knows",
        "Images made at one point, scored at another. Off the diagonal nothing should lie below it in its column.",
        plots.transfer_map,
    ),
    ("Attack by attack", "Each attack runs on what the ones before left standing.", plots.ladder),
    ("Against the radius", "Must fall, and reach chance.", plots.eps_curves),
    ("The attack's loss", "Should have stopped rising at the last step.", plots.loss_curves),
    (
        "Do probabilities mean what they say",
        "On clean images; ECE is the mean distance from the diagonal.",
        plots.reliability,
    ),
    (
        "Worst images",
        "Successful perturbations with the largest margins: the image and its label, ten "
        "times the change, and what the model said.",
        plots.examples,
    ),
)


def _flags(worst: list[Row]) -> str:
    """Which flags are raised where, why it matters and what to do."""
    raised = sorted({f for r in worst for f in r.flags})
    if not raised:
        return "<p>No flag was raised in training or evaluation.</p>"
    items = []
    for name in raised:
        where = dict.fromkeys(f"{r.run}, {point_label(r)}" for r in worst if name in r.flags)
        known = NAMES.get(name)
        text = f"<b class=flag>{html.escape(name)}</b> at {html.escape('; '.join(where))}."
        if known is not None:
            text += f" Raised if {known.raised_if}. <i>{known.why}.</i> What to do: {known.what}."
        items.append(f"<li>{text}</li>")
    items = [re.sub(r"`([^`]*)`", r"<code>\1</code>", item) for item in items]
    return f"<p class=flag>Raised: {html.escape(', '.join(raised))}</p><ul>{''.join(items)}</ul>"


def _per_class(worst: list[Row]) -> str:
    """SA and RA of every class at a few points."""
    shown = plots.some([r for r in worst if r.per_class])
    found = [(r, r.per_class) for r in shown if r.per_class]
    classes = found[0][1].classes
    head = "<th>point</th>" + "".join(f"<th>{html.escape(c)}</th>" for c in classes)
    body = []
    for row, of in found:
        if of.classes != classes:
            continue
        values = zip(of.clean, of.robust, strict=True)
        cells = "".join(f"<td>{_whole(a)} / {_whole(b)}</td>" for a, b in values)
        body.append(f"<tr><td>{html.escape(plots.named(row, shown))}</td>{cells}</tr>")
    return "<p>SA / RA in per cent.</p><div class=wide><table><tr>" + head + "</tr>" + "".join(body) + "</table></div>"


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
    """Write report.html, robustbench.json, trade_off.png and trade_off.svg into a folder; their paths."""
    paths = [out / n for n in ("report.html", "robustbench.json", "trade_off.png", "trade_off.svg")]
    write_text(paths[0], page(rows, title=title, recipe=recipe, comparisons=comparisons))
    entries = [entry(r) for r in worst_rows(rows)]
    write_text(paths[1], json.dumps(entries, indent=1) + "\n")
    for path in paths[2:]:
        write_bytes(path, as_bytes(trade_off(rows, title=title), path.suffix[1:]))
    return paths
