"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rheostat.cli.deploy import DataDir, Threads, Verify, set_threads
from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat train dual-fashion --data-dir DATA --out runs/shop --set train.epochs=8")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `rheostat recipes`) or file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key: train.epochs=5. May be repeated.")
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing the run.")] = False,
    verify: Verify = True,
    data: Annotated[str | None, typer.Option(help="Data set: a name, or folder:PATH; default the recipe's.")] = None,
    net: Annotated[
        str | None, typer.Option(help="Factory of your own network, package.module:function; default the recipe's.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write training curves for TensorBoard.")] = False,
) -> None:
    """Train a recipe, or continue a run where it stopped. Under torchrun, every rank runs this command."""
    from rheostat.cli.progress import Show
    from rheostat.runtime.distributed import leave
    from rheostat.training.callbacks import TensorBoard
    from rheostat.training.loop import train as run
    from rheostat.training.recipe import load_recipe
    from rheostat.training.starting import network_named

    changes = list(set_ or []) + ([] if verify else ["data.verify=false"])
    changes += [] if data is None else [f"data.name={data}"]
    chosen = load_recipe(recipe, changes=changes)
    own = None if net is None else network_named(net)
    callbacks = [TensorBoard()] if tensorboard else []
    set_threads(threads or chosen.device.threads)
    place = out or Path("runs") / chosen.name
    try:
        with Show(console) as show:
            run(chosen, out=place, folder=data_dir, fresh=fresh, report=show, net=own, callbacks=callbacks)
    finally:
        leave()
    if show.spoke and show.saved:
        console.print(f"The model is {place}/model.safetensors. Next: rheostat evaluate {place}")
