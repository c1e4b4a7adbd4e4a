"""The command line on what is there: recipes, models that ship, and what a model file holds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from rheostat.cli.deploy import File, Network
from rheostat.cli.terminal import console
from rheostat.results.labels import percent

app = typer.Typer()


@app.command(epilog="Example: rheostat recipes dual-fashion > mine.toml")
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe's file.")] = None) -> None:
    """List the recipes that come with the package, or print one."""
    from importlib import resources

    from rheostat.training.recipe import load_recipe, names

    if name is not None:
        load_recipe(name)
        file = resources.files("rheostat.training") / "recipes" / f"{name}.toml"
        print(file.read_text(), end="")  # unlike a console's, its lines are not wrapped: `> mine.toml` is a recipe
        return
    table = Table(box=None, pad_edge=False)
    for head in ("recipe", "composition", "data", "about"):
        table.add_column(head)
    for found in names():
        recipe = load_recipe(found)
        table.add_row(found, recipe.paper, recipe.data.name, recipe.about)
    console.print(table)


@app.command(epilog="Example: rheostat models")
def models() -> None:
    """List the models that ship: data, eps, accuracies on test images, size, licence of the data, where the file is.

    SA is standard accuracy with the dial at 0, RA robust accuracy under PGD-20 (tier quick) with the dial at 1, and
    standard the RA there under the attacks of that tier; in per cent. A model's card has all figures.
    """
    from rheostat.models import zoo

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("model", "data", "eps", "SA", "RA", "standard", "MB", "licence", "file"):
        right = head in ("SA", "RA", "standard", "MB")
        table.add_column(head, justify="right" if right else "left", no_wrap=head not in ("licence", "file"))
    for name in zoo.names():
        entry = zoo.index()[name]
        clean, _, robust, strong = entry.headline()
        shown = ("–" if share is None else percent(share) for share in (clean, robust, strong))
        table.add_row(name, entry.data, entry.threat, *shown, f"{entry.bytes / 1e6:.2f}", entry.licence, entry.state)
    console.print(table)
    console.print('Use one by its name: rheostat card NAME, or rheostat.load("NAME") in Python.')


@app.command(epilog="Example: rheostat info oat-digits")
def info(file: File, net: Network = None) -> None:
    """Say what a model file holds: composition, dials, network, threat model, provenance."""
    import json

    from rheostat.models.artifact import digest, load_with

    model, about = load_with(file, net=net)
    count = sum(p.numel() for p in model.parameters())
    console.print(f"composition  {model.method!r}", markup=False)
    console.print(f"network      {json.dumps(model.net.spec)}", markup=False)
    console.print(f"parameters   {count:,}")
    for dial in model.dials.values():
        scale = "calibrated: t, about linear in RA" if model.dial_map else "training λ"
        where = dial.values or f"{dial.low:g} … {dial.high:g}"
        console.print(f"dial         {dial.name}: {where} ({scale})", markup=False)
    for name, point in model.points.items():
        console.print(f"point        {name}: {point.label()}", markup=False)
    console.print(f"threat       {json.dumps(about.threat)}", markup=False)
    short = {k: v for k, v in about.provenance.items() if k != "recipe"}
    console.print(f"provenance   {json.dumps(short)}", markup=False)
    console.print(f"hash         {digest(file)}")
