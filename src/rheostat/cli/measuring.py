"""What `evaluate` and `demo` share: a measurement with its progress, and its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from rheostat.cli.terminal import console

if TYPE_CHECKING:
    from rheostat.evaluation.lookup import Request
    from rheostat.evaluation.options import EvaluationOptions
    from rheostat.results.row import Row


def measure(request: Request, options: EvaluationOptions, *, quiet: bool = False) -> list[Row]:
    """Measure, show progress (`quiet`: no line a point), print the table; the rows."""
    from rheostat.cli.progress import Show
    from rheostat.evaluation.lookup import measure as measured
    from rheostat.results.labels import attacker_lines, gap_lines

    with Show(console, lines=not quiet) as show:
        rows = measured(request, options, report=show)
    if rows:
        console.print(_table(rows))
        for line in [*gap_lines(rows), *attacker_lines(rows)]:
            console.print(line, markup=False)
    return rows


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
