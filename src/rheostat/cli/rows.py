"""The commands on stored rows: report, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rheostat.cli.terminal import console

app = typer.Typer()


@app.command(epilog="Example: rheostat report runs/shop")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or rows files; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default the first run.")] = None,
) -> None:
    """Write report.html (offline, self-contained), trade_off.png and trade_off.svg from rows."""
    write(runs, out)


def write(runs: list[Path], out: Path | None) -> None:
    """Write the report of some runs."""
    from rheostat.reports.page import write_report
    from rheostat.results.comparison import sides
    from rheostat.results.row import Row
    from rheostat.results.rows import read_rows, rows_file

    rows: list[Row] = []
    compared = []
    for run in runs:
        file = rows_file(run)
        found = read_rows(file)
        compared += sides(found, file)
        for row in found:
            beside = {"examples": str(file.parent / row.examples)} if row.examples else {}
            rows.append(row.model_copy(update=beside))
    first = runs[0] if runs[0].is_dir() else runs[0].parent
    recipe_file = first / "recipe.json"
    recipe = json.loads(recipe_file.read_text()) if recipe_file.is_file() else None
    title = "Rheostat: " + ", ".join(dict.fromkeys(r.run for r in rows))
    pairs = _comparisons(compared)
    for path in write_report(rows, out or first, title=title, recipe=recipe, comparisons=pairs):
        console.print(f"wrote {path}")


def _comparisons(runs: list[Any]) -> list[Any]:
    """Compare the first run with each other one; print a line for each pair that cannot be compared."""
    from rheostat.results.comparison import compare as compared

    out = []
    for other in runs[1:]:
        try:
            out.append(compared(runs[0], other))
        except ValueError as problem:
            console.print(f"{runs[0].name}, {other.name}: not compared, {problem}", markup=False)
    return out


@app.command(epilog="Example: rheostat compare runs/shop runs/other --tier standard")
def compare(
    run: Annotated[str, typer.Argument(help="A run's folder, a rows file, or FILE:NAME.")],
    other: Annotated[str, typer.Argument(help="The run to compare with, in the same form.")],
    at: Annotated[str, typer.Option(help="Fix dials that only one of them has: width=1, or robustness=1.")] = "",
    tier: Annotated[str, typer.Option(help="quick, standard or full.")] = "quick",
    between: Annotated[
        str | None, typer.Option(help="Compare rows measured with a norm rule: at-0, at-0.1, at-0.5, at-0.6, blend.")
    ] = None,
    above: Annotated[
        float | None,
        typer.Option(help="The SA, 0 to 1, above which areas are measured; default 2 points below the lowest."),
    ] = None,
) -> None:
    """Say whether one run is better than another: paired differences on the same images."""
    from rheostat.points.grid import parse_grid
    from rheostat.results.comparison import compare as compared
    from rheostat.results.comparison import side

    points = parse_grid(at)
    if len(points) > 1:
        raise ValueError(f"--at fixes one position, given {at!r}")
    found = compared(side(run), side(other), tier=tier, between=between, at=points[0].numbers(), above=above)
    first, second = found.names
    console.print(f"{first} minus {second}, {found.n} images, paired, 95 %: {found.under}", markup=False)
    table = Table(box=None, pad_edge=False)
    for head in ("point", "SA, points", "", "RA, points", ""):
        table.add_column(head, justify="right" if head.endswith("points") else "left")
    for label, clean, robust in found.points:
        table.add_row(label, clean.text(), clean.verdict, robust.text(), robust.verdict)
    console.print(table)
    if found.area is not None:
        console.print(
            f"area under the dial, above SA {100 * found.above:.1f} %: {found.area.text(1e4, 0)} square "
            f"points, {found.area.verdict}",
            markup=False,
        )
