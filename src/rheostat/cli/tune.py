"""The command `tune`: a search for better recipe values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rheostat.cli.deploy import DataDir, Threads, Verify, set_threads
from rheostat.cli.progress import Show
from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat tune dual-fashion --space space.toml --trials 12")
def tune(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file.")],
    space: Annotated[Path, typer.Option(help=r"A TOML file with a table \[space]: a range of values per key.")],
    trials: Annotated[int, typer.Option(help="Total number of finished trials, over all workers.", min=1)] = 12,
    out: Annotated[Path | None, typer.Option(help="Folder of this worker; default runs/tune-NAME.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="The study's database, as a URL that workers share; default SQLite in the folder."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key of the recipe first: train.epochs=5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the search in the folder and start over; not with --storage.")
    ] = False,
    data_dir: DataDir = None,
    threads: Threads = None,
    verify: Verify = True,
) -> None:
    """Search for a better recipe. Trials are scored on calibrate splits only; weak ones stop early.

    A killed search continues its unfinished trials where they stopped.
    """
    from rheostat.training import tuning
    from rheostat.training.recipe import load_recipe
    from rheostat.training.space import read_space

    changes = list(set_ or []) + ([] if verify else ["data.verify=false"])
    chosen = load_recipe(recipe, changes=changes)
    searched = read_space(space, chosen)
    set_threads(threads or chosen.device.threads)
    folder = out or Path("runs") / f"tune-{chosen.name}"
    if fresh:
        if storage is not None:
            raise ValueError(
                "--fresh deletes the search in a folder, but --storage keeps this study in a database, which others "
                f"may be using: delete {tuning.study_name(searched)} there, or name another database"
            )
        tuning.forget(folder)
    with Searching(console, lines=False) as show:
        found = tuning.tune(
            searched, trials=trials, out=folder, storage=storage, seed=seed, data_dir=data_dir, report=show
        )
    console.print(_table(found.trials, list(searched.ranges)))
    console.print(
        f"best score on calibrate-fit {found.score:.3f}. Next: rheostat train {folder}/best.toml", markup=False
    )


class Searching(Show):
    """Shows a search: its size, the trials that end, and at most how long the others will take."""

    ended, trials = 0, 1

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "search":
            self.ended, self.trials = event["ended"], event["trials"]
            self.console.print(f"searching {self.trials} trials, {self.ended} of them finished", markup=False)
        elif kind == "step":
            self._advance("trials", round(self.ended + event["step"] / event["total"], 2), self.trials, "")
        elif kind == "trial":
            self.ended += 1
            score = "–" if event["score"] is None else f"{event['score']:.3f}"
            note = f"  {event['note']}" if event["note"] else ""
            self.console.print(f"trial {event['trial']}  {event['state']}  score {score}{note}", markup=False)


def _table(rows: tuple[dict[str, Any], ...], keys: list[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("trial", "state", "epochs", "score", *keys):
        table.add_column(head)
    for row in rows:
        score = "–" if row["score"] is None else f"{row['score']:.3f}"
        values = [f"{v:.4g}" if isinstance(v := row.get(k), float) else str(v) for k in keys]
        table.add_row(str(row["trial"]), row["state"], str(row["epochs"]), score, *values)
    return table
