"""The command `demo`: train, measure and report in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.deploy import Threads, set_threads
from rheostat.cli.terminal import console

app = typer.Typer()
POINTS = "robustness=0:1:0.2"


@app.command(epilog="Example: rheostat demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/demo"),
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing.")] = False,
) -> None:
    """Train one network on images of clothing, measure it at every position of its dial, and write a report."""
    from rheostat.cli.measuring import measure
    from rheostat.cli.progress import Show
    from rheostat.cli.rows import write
    from rheostat.evaluation.lookup import Request
    from rheostat.evaluation.options import EvaluationOptions
    from rheostat.training.loop import train
    from rheostat.training.recipe import load_recipe

    recipe = load_recipe("dual-fashion-mini")
    set_threads(threads or recipe.device.threads)
    console.print(f"One network, one dial: {recipe.train.epochs} epochs on images of clothing, then 6 positions.")
    with Show(console, lines=False) as show:
        train(recipe, out=out, fresh=fresh, report=show)
    measure(Request(str(out), POINTS), EvaluationOptions(fresh=fresh), quiet=True)
    console.print("As t rises, robust accuracy (RA) rises and standard accuracy (SA) falls. PGD-20; 95 % intervals.")
    write([out], out)
