"""docs/models.md and a card for each model that ships, from their files and rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markdown import table
from zoo_index import along

from rheostat.models.artifact import load_with
from rheostat.models.fetching import ADDRESS, CACHE
from rheostat.models.zoo import Shipped
from rheostat.reports.card import AGAIN, card
from rheostat.results.labels import percent, point_label
from rheostat.results.row import Row

NAV = ('  { "Models" = ', " },\n")
"""What stands around the list of models in the site's navigation."""


def page(models: Sequence[Shipped]) -> str:
    """A row per model, and how to load one."""
    body = []
    for entry in models:
        body.append(
            [
                f"[`{entry.name}`](models/{entry.name}.md)",
                entry.data,
                f"`{entry.composition}`",
                f"{entry.norm} {entry.threat.removeprefix(entry.norm).strip()}",
                *("not yet measured" if share is None else percent(share) for share in entry.headline()),
                f"{entry.bytes / 1e6:.2f} MB, {'in the package' if entry.where == 'package' else 'fetched'}",
                entry.licence,
            ]
        )
    head = ["name", "data", "composition", "trained against", "SA, t = 0", "SA, t = 1", "RA, t = 1", "standard, t = 1"]
    head += ["file", "licence of the data"]
    return (
        "# Models\n\nThese ship. t is the position of the dial; SA is standard accuracy, RA robust accuracy under "
        "PGD-20 (tier `quick`), standard the RA under the attacks of the tier `standard`; per cent of test images. "
        "Each name leads to a card with intervals, attacks, numbers of images, flags and commands.\n\n"
        + table(head, body)
        + "\n`rheostat models` lists them, and says which files are here. `rheostat info NAME`, `rheostat evaluate "
        "NAME`, `rheostat serve NAME` and `rheostat card NAME` take them by name.\n\n"
        '```python\nimport rheostat\n\nmodel = rheostat.load("oat-digits")\nprint(model.dials)\n```\n\n'
        "A file of up to 1.5 MB comes with the package and works offline. A larger one is fetched the first time it is "
        f"asked for, compared with its SHA-256, and kept in the user's cache, or in the folder `{CACHE}`; "
        f"`{ADDRESS}` names a mirror.\n\n"
        "Named points are `clean`, `balanced` and `robust`: of eleven positions measured on the images for choosing, "
        "those with the highest lower bound of SA, of the mean of both, and of RA. All bounds hold at once at 95 %.\n\n"
        "`rheostat.save` writes a model of your own in the same format: one safetensors file that holds weights, "
        "architecture, composition, dials and calibration. Loading never runs code from the file.\n\n"
        "Written by `python benchmarks/pages/build.py` from the files and rows themselves.\n"
    )


def card_page(entry: Shipped, file: Path, rows: Sequence[Row]) -> str:
    """The card of a model that ships, with its picture and what images made at other positions do."""
    model, about = load_with(file)
    own = [r for r in rows if r.artifact == entry.digest]
    text = card(model, about, _largest(own), name=entry.name, digest=entry.digest, shipped=entry)
    if along(own, "quick"):
        picture = f"![SA and RA along the dial of {entry.name}]({entry.name}.png)\n\n"
        text = text.replace("## Measured\n", f"## Measured\n\n{picture}", 1).replace("\n\n\n", "\n\n")
    made_elsewhere = _crossed(own)
    if made_elsewhere:
        text = text.replace(f"{AGAIN}\n", f"{made_elsewhere}\n{AGAIN}\n", 1)
    return f"{text}\nWritten by `python benchmarks/pages/build.py` from file and rows; [all models](../models.md).\n"


def _largest(rows: Sequence[Row]) -> list[Row]:
    """Rows less those of a worst case that was also measured on more images."""

    def alike(a: Row, b: Row) -> bool:
        fields = ("at", "rule", "tier", "split", "knowledge", "corruption")
        return a.attack.name == b.attack.name == "worst" and all(getattr(a, f) == getattr(b, f) for f in fields)

    return [r for r in rows if not any(alike(r, other) and other.n > r.n for other in rows)]


def _crossed(rows: Sequence[Row]) -> str:
    """RA where images are made at one position (columns) and scored at another (rows of the table)."""
    found = [r for r in rows if r.knowledge == "transfer" and r.attack.made_at is not None]
    if not found:
        return ""
    scored = sorted({r.at["robustness"] for r in found})
    cells = {(r.at["robustness"], (r.attack.made_at or {})["robustness"]): r for r in found}
    made = sorted({key[1] for key in cells})
    first = found[0]
    body = [
        [f"t = {at:g}", *(percent(cells[at, m].robust_accuracy) if (at, m) in cells else "" for m in made)]
        for at in scored
    ]
    head = ["RA %, scored at", *(f"made at {point_label(first, {'robustness': m})}" for m in made)]
    return (
        f"## Images made at another position\n\n{table(head, body)}\nTier `{first.tier}`, split `{first.split}`, "
        f"n = {first.n}. The attacker knows the model and not where the dial stands.\n"
    )


def navigation(text: str, models: Sequence[Shipped]) -> str:
    """zensical.toml with the cards of the models that ship in its navigation."""
    start, end = NAV
    head, found, rest = text.partition(start)
    if not found:
        raise ValueError(f"zensical.toml has no line that begins with {start!r}")
    cards = "".join(f', {{ "{m.name}" = "models/{m.name}.md" }}' for m in models)
    return f'{head}{start}["models.md"{cards}]{end}{rest.partition(chr(10))[2]}'
