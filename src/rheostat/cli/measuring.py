"""Shared code of `evaluate` and `demo`: a measurement with progress, and its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

from rich.table import Table

from rheostat.cli.terminal import console

if TYPE_CHECKING:
    from rheostat.evaluation.lookup import Request
    from rheostat.evaluation.options import EvaluationOptions
    from rheostat.results.row import Row
    from rheostat.runtime.precision import Asked


def measure(request: Request, options: EvaluationOptions, *, quiet: bool = False, precision: str = "fp32") -> list[Row]:
    """Measure, show progress (`quiet`: without a line per point), print the table, and return the rows.

    `precision` is that of the exported files that are judged instead of the model; fp32 judges the model.
    """
    from rheostat.cli.progress import Show
    from rheostat.evaluation.lookup import measure as measured
    from rheostat.results.labels import attacker_lines, gap_lines

    with Show(console, lines=not quiet) as show:
        if precision == "fp32":
            rows = measured(request, options, report=show)
        else:
            from rheostat.deploy.judging import measure_in

            rows = measure_in(precision, request, options, report=show)
    if rows and not request.corruptions:
        console.print(_table(rows))
    _corrupted(rows)
    if rows:
        for line in [*gap_lines(rows), *attacker_lines(rows)]:
            console.print(line, markup=False)
    return rows


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """The whole numbers of a list such as 1,3,5, or None; raises ValueError that names the option."""
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"{option} must be a list of whole numbers, such as 1,3,5; given {text!r}") from None


def asked_precision(text: str) -> Asked:
    """A precision by its name; raises ValueError with the nearest name."""
    from rheostat.runtime.choices import check_choice
    from rheostat.runtime.precision import Asked

    check_choice("an attack", "precision", text, get_args(Asked))
    return cast("Asked", text)


def _corrupted(rows: list[Row]) -> None:
    """Print the table of corruptions, if there are rows of corruptions."""
    from rheostat.results.corrupted import corruption_table

    found = corruption_table(rows)
    if found is None:
        return
    table = Table(box=None, pad_edge=False)
    for column in found[0]:
        table.add_column(column)
    for line in found[1]:
        table.add_row(*line)
    console.print(table)


def _table(rows: list[Row]) -> Table:
    from rheostat.results.labels import percent, point_label, worst_rows

    table = Table(box=None, pad_edge=False)
    for head in ("point", "SA % [95 %]", "RA % [95 %]", "MACs", "split", "n", "flags"):
        table.add_column(head, justify="left" if head in ("point", "split", "flags") else "right")
    for row in worst_rows(rows):
        table.add_row(
            point_label(row),
            percent(row.clean_accuracy, row.interval.clean),
            percent(row.robust_accuracy, row.interval.robust),
            f"{row.macs.mean / 1e6:.2f} M",
            row.split,
            str(row.n),
            ", ".join(row.flags) or "–",
        )
    return table
