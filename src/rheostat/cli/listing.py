"""The command line on what is there: recipes, and what a model file holds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from rheostat.cli.deploy import File, Network
from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat recipes dual-fashion > mine.toml")
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe's file.")] = None) -> None:
    """List the recipes that come with the package, or print one."""
    from importlib import resources

    from rheostat.training.recipe import load_recipe, names

    if name is not None:
        load_recipe(name)
        file = resources.files("rheostat.training") / "recipes" / f"{name}.toml"
        console.print(file.read_text(), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for head in ("recipe", "composition", "data", "about"):
        table.add_column(head)
    for found in names():
        recipe = load_recipe(found)
        table.add_row(found, recipe.paper, recipe.data.name, recipe.about)
    console.print(table)


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
