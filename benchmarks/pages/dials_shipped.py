"""Pictures of the models that ship: README's (SA against RA, beside dedicated networks), and each card's."""

from __future__ import annotations

from collections.abc import Sequence

import pictures
from matplotlib.figure import Figure
from plain import Row as PlainRow
from zoo_index import along

from rheostat.models.zoo import Shipped
from rheostat.reports.dial_plots import COLOURS
from rheostat.results.labels import worst_rows
from rheostat.results.row import Row

HERO = "cifar10-resnet20"
"""The model of README's picture."""
DEDICATED = f"{HERO}-pgd-at-"
"""Prefix of the names of runs that train the same network for one balance."""
LABELLED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The positions whose marks are labelled."""
DATA = {"cifar10": "CIFAR-10"}

Line = list[tuple[float, float, float]]
"""(position, RA, SA) in per cent."""


def hero_rows(models: Sequence[Shipped], rows: Sequence[Row]) -> tuple[Shipped | None, list[Row], list[Row]]:
    """The model of README's picture, its eleven rows, and those of dedicated networks; empty without its rows."""
    entry = next((m for m in models if m.name == HERO), None)
    own = along([r for r in rows if entry is not None and r.artifact == entry.digest], "quick")
    if entry is None or len(own) < 11:
        return None, [], []
    alone = [r for r in worst_rows(list(rows)) if r.run.startswith(DEDICATED) and r.tier == "quick"]
    return entry, own, [r for r in alone if (r.split, r.n) == (own[0].split, own[0].n)]


def hero(models: Sequence[Shipped], rows: Sequence[Row], before: list[PlainRow]) -> Figure:
    """README's picture: the dial of the CIFAR-10 model that ships, or one of the study while that model has no rows."""
    entry, own, alone = hero_rows(models, rows)
    if entry is None:
        return pictures.one_dial(before)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    line = [(r.at["robustness"], 100 * r.robust_accuracy, 100 * r.clean_accuracy) for r in own]
    marked = [p for p in line if any(abs(p[0] - t) < 1e-9 for t in LABELLED)]
    axes.plot([p[1] for p in line], [p[2] for p in line], "-", color=COLOURS[0], linewidth=2.2)
    axes.plot([p[1] for p in marked], [p[2] for p in marked], "o", color=COLOURS[0], markersize=8, label="one network")
    for t, x, y in marked:
        axes.annotate(f"dial at {t:g}", (x, y), xytext=(7, 6), textcoords="offset points", fontsize=10)
    if alone:
        axes.plot(
            [100 * r.robust_accuracy for r in alone],
            [100 * r.clean_accuracy for r in alone],
            "kx",
            markersize=10,
            markeredgewidth=2.4,
            label="a network trained for one balance",
        )
        axes.legend(fontsize=10, loc="lower left", frameon=False)
    first = own[0]
    axes.set_title(
        f"{DATA.get(entry.data, entry.data)}, ResNet-20, eps {entry.threat}, {first.n:,} test images", fontsize=11
    )
    axes.set_xlabel("robust accuracy under PGD-20, %", fontsize=11)
    axes.set_ylabel("standard accuracy, %", fontsize=11)
    axes.margins(x=0.15, y=0.12)
    axes.grid(alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def caption(models: Sequence[Shipped], rows: Sequence[Row]) -> str:
    """The lines of README that show the picture and its caption."""
    entry, own, alone = hero_rows(models, rows)
    if entry is None:
        return (
            "![One network with a dial beside networks trained for one balance each](docs/trade_off.png)\n\n"
            "*Each mark on a line is one position of the dial; each cross is a network trained for that balance alone. "
            "Given as many\nepochs as one of them (dashed), the dial lies lower; given twice as many (solid), it is "
            "about level with them.*\n"
        )
    what = "One network with a dial" + (" beside networks trained for one balance each" if alone else "")
    crosses = (
        " Each cross is a separate network, trained for\nthat balance alone "
        f"({'; '.join(sorted({_trained(r) for r in alone}))})."
        if alone
        else ""
    )
    return (
        f"![{what}](docs/trade_off.png)\n\n*Each mark is a position of the dial of `{entry.name}`, which ships with "
        f"the package ({_trained(own[0])}).{crosses} [Its card]"
        f"(docs/models/{entry.name}.md) has stronger attacks and intervals.*\n"
    )


def _trained(row: Row) -> str:
    """Epochs, attack and precision of a row's training: what differs between the dial and the crosses."""
    attack = row.train.attack or {}
    name = f"PGD-{attack.get('steps')}" if attack.get("kind") == "pgd" else str(attack.get("kind", "")).upper()
    return ", ".join(filter(None, (f"{row.train.epochs} epochs", name, row.train.precision)))


def measured(models: Sequence[Shipped], rows: Sequence[Row]) -> str | None:
    """The caption of the same picture in docs/results.md; None while it shows a network of the study."""
    entry, own, _ = hero_rows(models, rows)
    if entry is None:
        return None
    first = own[0]
    return (
        f"*The dial of [`{entry.name}`](models/{entry.name}.md), which ships with the package and was trained on "
        f"{first.train.images or 'all training'} images, less those held out, for {first.train.epochs} epochs. Attack: "
        f"{', '.join(first.attack.names)} (tier `{first.tier}`) made at each position; {first.n} images of the "
        f"`{first.split}` split.*\n"
    )


def along_dial(entry: Shipped, rows: Sequence[Row]) -> Figure | None:
    """A card's picture: SA, and RA under PGD-20 and under the tier `standard`, against the position of the dial."""
    own = [r for r in rows if r.artifact == entry.digest]
    quick, strong = along(own, "quick"), along(own, "standard")
    if not quick:
        return None
    figure = Figure(figsize=(6.4, 3.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    where = [r.at["robustness"] for r in quick]
    axes.plot(where, [100 * r.clean_accuracy for r in quick], "o-", color=COLOURS[0], markersize=4, label="SA")
    axes.plot(where, [100 * r.robust_accuracy for r in quick], "s-", color=COLOURS[1], markersize=4, label="RA, PGD-20")
    if strong:
        axes.plot(
            [r.at["robustness"] for r in strong],
            [100 * r.robust_accuracy for r in strong],
            "D:",
            color=COLOURS[2],
            markersize=6,
            label="RA, tier standard",
        )
    axes.set_ylim(0, 102)
    axes.set_xlabel("t, the position of the dial")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    figure.legend(fontsize=9, loc="outside upper center", ncols=3, frameon=False)
    return figure
