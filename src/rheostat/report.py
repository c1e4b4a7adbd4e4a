"""Plots and the self-contained HTML page, from rows alone."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.exit_plots import accuracy_against_macs, live, shares_per_exit
from rheostat.files import write_bytes, write_text
from rheostat.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def worst_rows(rows: list[Row]) -> list[Row]:
    """The rows of worst cases over attacks: what curves and tables are made of."""
    return [r for r in rows if r["attack"]["name"] == "worst"]


def gap_lines(rows: list[Row]) -> list[str]:
    """Per point of a tier above quick: what PGD-20 alone would have said."""
    lines = []
    for first in rows:
        if first["attack"]["name"] != "pgd20" or first["cumulative"] or first["tier"] == "quick":
            continue
        same = ("run", "at", "tier", "rule")
        last = next(r for r in worst_rows(rows) if all(r[k] == first[k] for k in same))
        gap = 100 * (first["robust_accuracy"] - last["robust_accuracy"])
        lines.append(
            f"{point_label(last)}: quick {percent(first['robust_accuracy'])} → {last['tier']} "
            f"{percent(last['robust_accuracy'])} (gap {gap:.1f} points)"
        )
    return lines


def attacker_lines(rows: list[Row]) -> list[str]:
    """What attackers with other knowledge of the dial achieve: the strongest transfer, unknown, chosen."""
    lines = []
    unknown = [r for r in rows if r["knowledge"] == "unknown"]
    for row in unknown:
        crossed = [r for r in rows if r["knowledge"] == "transfer" and r["at"] == row["at"]
                   and r["attack"]["made_at"] != row["at"]]  # fmt: skip
        best = min(crossed, key=lambda r: r["robust_accuracy"], default=None)
        text = f"{point_label(row)}: attacker who does not know the point {percent(row['robust_accuracy'])}"
        if best is not None:
            made = point_label({**best, "at": best["attack"]["made_at"]})
            text += f", images made at {made} {percent(best['robust_accuracy'])}"
        lines.append(text)
    lines += [f"attacker who may choose the point: {percent(r['robust_accuracy'], r['interval']['robust'])}"
              for r in rows if r["knowledge"] == "chosen"]  # fmt: skip
    return lines


def point_label(row: Row) -> str:
    """A short text for a row's point: λ or t first."""
    at = dict(row["at"])
    parts = []
    if "robustness" in at:
        parts.append(f"{'λ' if row.get('rule') else 't'} = {at.pop('robustness'):g}")
    parts += [f"{k} = {v:g}" for k, v in at.items()]
    return ", ".join(parts) or "the one point"


def trade_off(rows: list[Row], *, title: str = "") -> Figure:
    """SA against RA: a curve per run, one mark per point, 95 % intervals drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    runs = list(dict.fromkeys((r["run"], r.get("rule")) for r in worst_rows(rows)))
    for i, (run, rule) in enumerate(runs):
        found = [r for r in worst_rows(rows) if (r["run"], r.get("rule")) == (run, rule)]
        found.sort(key=lambda r: list(r["at"].values()))
        x = [100 * r["robust_accuracy"] for r in found]
        y = [100 * r["clean_accuracy"] for r in found]
        spread = [
            [
                [100 * abs(r["interval"][k][side] - r[f"{k}_accuracy"]) for r in found]
                for side in (0, 1)
            ]
            for k in ("robust", "clean")
        ]
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        name = run if rule is None else f"{run} (λ, {rule})"
        axes.errorbar(
            x, y, xerr=spread[0], yerr=spread[1], color=colour, marker=mark, markersize=5,
            linewidth=1.2, elinewidth=0.6, capsize=2, label=name, alpha=0.9,
        )  # fmt: skip
        flagged = [(a, b) for a, b, r in zip(x, y, found, strict=True) if r["flags"]]
        for a, b in flagged:
            axes.annotate("⚑", (a, b), xytext=(4, 4), textcoords="offset points", color="#B00020")
        if len(found) > 1:
            for place in (0, len(found) - 1):
                axes.annotate(
                    f"{next(iter(found[place]['at'].values())):g}" if found[place]["at"] else "",
                    (x[place], y[place]), xytext=(6, 6), textcoords="offset points",
                    fontsize=8, color=colour,
                )  # fmt: skip
    axes.set_xlabel("robust accuracy, % (worst case over the attacks run)")
    axes.set_ylabel("clean accuracy, %")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    if len(runs) > 1:
        axes.legend(fontsize=8)
    return figure


def along_dial(rows: list[Row]) -> Figure:
    """SA and RA against the dial's position, with intervals as bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    found = [r for r in worst_rows(rows) if "robustness" in r["at"]]
    for i, (run, rule) in enumerate(dict.fromkeys((r["run"], r.get("rule")) for r in found)):
        mine = [r for r in found if (r["run"], r.get("rule")) == (run, rule)]
        mine.sort(key=lambda r: float(r["at"]["robustness"]))
        t = [r["at"]["robustness"] for r in mine]
        for kind, style in (("clean", "-"), ("robust", "--")):
            values = [100 * r[f"{kind}_accuracy"] for r in mine]
            low = [100 * r["interval"][kind][0] for r in mine]
            high = [100 * r["interval"][kind][1] for r in mine]
            colour = COLOURS[i % len(COLOURS)]
            name = f"{run}{'' if rule is None else f' ({rule})'} {kind}"
            axes.plot(
                t,
                values,
                style,
                color=colour,
                marker=MARKS[i % len(MARKS)],
                markersize=4,
                label=name,
            )
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


def percent(value: float, interval: list[float] | None = None) -> str:
    """62.3 or 62.3 [59.1, 65.4], in per cent."""
    text = f"{100 * value:.1f}"
    if interval is not None:
        text += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return text


def _table(rows: list[Row]) -> str:
    head = (
        "run", "point", "SA % [95 %]", "RA % [95 %]", "attacks", "eps", "n", "MACs", "seconds",
        "flags",
    )  # fmt: skip
    body = []
    for row in worst_rows(rows):
        attack = row["attack"]
        cells = (
            row["run"],
            point_label(row),
            percent(row["clean_accuracy"], row["interval"]["clean"]),
            percent(row["robust_accuracy"], row["interval"]["robust"]),
            ", ".join(attack["of"]),
            f"{attack['norm']} {attack['eps']:.4g}",
            str(row["n"]),
            f"{row['macs']['mean'] / 1e6:.2f} M",
            f"{row['seconds']:.1f}",
            ", ".join(row["flags"]) or "none",
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


def page(rows: list[Row], *, title: str, recipe: dict[str, Any] | None = None) -> str:
    """The whole report as one HTML text that needs nothing else."""
    worst = worst_rows(rows)
    if not worst:
        raise ValueError("there are no rows to report; run `rheostat evaluate` first")
    flags = sorted({f for r in worst for f in r["flags"]})
    raised = (
        f"<p class=flag>Raised: {html.escape(', '.join(flags))}</p>"
        if flags
        else "<p>No flag was raised in training or evaluation.</p>"
    )
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        "<p>Robust accuracy is measured under the attacks named, white-box at the very point that is "
        "scored; a stronger attack can only lower it. Brackets are exact 95 % intervals.</p>",
        raised,
        "<h2>The trade-off</h2>",
        _embedded(trade_off(rows), "clean against robust accuracy"),
    ]
    if any("robustness" in r["at"] for r in worst):
        parts += [
            "<h2>Along the dial</h2>",
            _embedded(along_dial(rows), "accuracy along the robustness dial"),
        ]
    if live(rows):
        parts += [
            "<h2>Exits</h2>",
            "<p>An exit that is passed has been paid for: the cost of a row counts every head before "
            "the one it leaves by.</p>",
            _embedded(accuracy_against_macs(rows), "accuracy against mean MACs"),
            _embedded(shares_per_exit(rows), "share of images per exit, clean and attacked"),
        ]
    parts += ["<h2>Every point</h2>", _table(rows)]
    if recipe:
        parts += ["<h2>Recipe</h2>", f"<pre>{html.escape(json.dumps(recipe, indent=1))}</pre>"]
    about = {"versions": worst[0]["versions"], "hardware": worst[0]["hardware"]}
    parts += ["<h2>Where</h2>", f"<pre>{html.escape(json.dumps(about, indent=1))}</pre>"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def write_report(
    rows: list[Row], out: Path, *, title: str, recipe: dict[str, Any] | None = None
) -> list[Path]:
    """Write report.html, trade_off.png and trade_off.svg into a folder; their paths."""
    paths = [out / "report.html", out / "trade_off.png", out / "trade_off.svg"]
    write_text(paths[0], page(rows, title=title, recipe=recipe))
    for path in paths[1:]:
        write_bytes(path, as_bytes(trade_off(rows, title=title), path.suffix[1:]))
    return paths
