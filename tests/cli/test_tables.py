"""Tables of rows say on which split and how many images they were measured."""

from __future__ import annotations

import io
import re

import pytest
from rich.table import Table

from rheostat.cli.measuring import _table
from rheostat.cli.terminal import VisibleConsole
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


def test_a_table_in_a_file_is_not_cut_to_the_width_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(box=None)
    for number in range(6):
        table.add_column(f"a long head of column {number}")
    out = io.StringIO()
    VisibleConsole(file=out).print(table)
    assert out.getvalue().count("a long head of column") == 6
    monkeypatch.setenv("COLUMNS", "40")
    narrow = io.StringIO()
    VisibleConsole(file=narrow).print(table)
    assert max(map(len, narrow.getvalue().splitlines())) <= 40
