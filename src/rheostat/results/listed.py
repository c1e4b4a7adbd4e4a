"""A list of rows that a notebook shows as a table."""

from __future__ import annotations

from html import escape

from rheostat.results.labels import attacker_lines, gap_lines, percent, point_label, worst_rows
from rheostat.results.row import Row
from rheostat.runtime.markup import table

HEADS = ("run", "point", "SA % [95 %]", "RA % [95 %]", "attacks", "M MACs", "split", "n", "flags")


class Rows(list[Row]):
    """A list of the rows of an evaluation or a file; a notebook shows the worst cases as a table, a line per point."""

    def _repr_html_(self) -> str:
        lines = [
            (
                r.run,
                point_label(r),
                percent(r.clean_accuracy, r.interval.clean),
                percent(r.robust_accuracy, r.interval.robust),
                f"{', '.join(r.attack.names)} ({r.attack.norm} {r.attack.eps:.4g})",
                f"{r.macs.mean / 1e6:.2f}",
                r.split,
                str(r.n),
                ", ".join(r.flags) or "none",
            )
            for r in worst_rows(self)
        ]
        more = "".join(f"<p>{escape(line)}</p>" for line in [*gap_lines(self), *attacker_lines(self)])
        return f"<div>{table(HEADS, lines)}{more}</div>" if lines else "<div><p>no rows</p></div>"
