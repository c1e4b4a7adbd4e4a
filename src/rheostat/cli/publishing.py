"""The commands that publish a model: card, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.deploy import File, Network
from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat card runs/shop --out CARD.md")
def card(
    file: File,
    rows: Annotated[Path | None, typer.Option(help="Rows file; default the run's.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default standard output.")] = None,
    net: Network = None,
) -> None:
    """Write a model card from a model's file and its rows."""
    from rheostat.runtime.files import write_text

    text = card_of(file, rows, net, Path(file).name)
    if out is None:
        print(text)
    else:
        write_text(out, text)
        console.print(f"wrote {out}")


def card_of(file: str, rows: Path | None, net: str | None, name: str) -> str:
    """The text of a model card for a model's file and its rows, under a name.

    A run's folder need not hold rows; a given file of rows must hold some of this model.
    """
    from rheostat.deploy.named_points import own_rows, rows_of, rows_path
    from rheostat.models import artifact, zoo
    from rheostat.reports.card import card as write

    model, about = artifact.load_with(file, net=net)
    own = artifact.digest(file)
    shipped = zoo.by_digest(own)
    found = own_rows(rows_path(file), own) if rows is None else rows_of(file, rows)
    return write(model, about, found, name=name, digest=own, shipped=shipped)


@app.command(epilog="Example: rheostat push runs/shop lab/shop --private")
def push(
    file: File,
    name: Annotated[str, typer.Argument(help="organisation/name on the Hugging Face hub; created if it is new.")],
    rows: Annotated[Path | None, typer.Option(help="Rows file for the card; default the run's.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    net: Network = None,
) -> None:
    """Upload a model's file and its card to the hub; rheostat.load("hf:organisation/name") reads it."""
    from rheostat.models.hub import check_name, push_to_hub

    check_name(name)
    address = push_to_hub(file, name, card=card_of(file, rows, net, name), net=net, private=private)
    console.print(f"uploaded {address}", markup=False)
