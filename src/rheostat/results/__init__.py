"""Result rows: their files, intervals, areas and paired comparison."""

from rheostat.results.bits import read_bits
from rheostat.results.comparison import compare
from rheostat.results.intervals import exact, not_lower, paired
from rheostat.results.row import Row
from rheostat.results.rows import add_rows, read_rows, write_rows

__all__ = ["Row", "add_rows", "compare", "exact", "not_lower", "paired", "read_bits", "read_rows", "write_rows"]
