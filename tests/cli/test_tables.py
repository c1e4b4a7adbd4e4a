"""Tables of rows say on which split and how many images they were measured."""

from __future__ import annotations

import re

from rheostat.cli.measuring import _table
from rheostat.results.listed import Rows
from support import made_row

ROWS = Rows([made_row(at={"robustness": 1.0}, split="calibrate-choose")])


def test_the_table_of_the_terminal_has_split_and_n() -> None:
    cells = {str(column.header): list(column.cells) for column in _table(ROWS).columns}
    assert (cells["split"], cells["n"]) == (["calibrate-choose"], ["8"])


def test_the_table_of_a_notebook_has_split_and_n() -> None:
    page = ROWS._repr_html_()
    heads, values = (re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page) for tag in ("th", "td"))
    cells = dict(zip(heads, values, strict=True))
    assert (cells["split"], cells["n"]) == ("calibrate-choose", "8")
