"""The console of the command line; control characters in text from files and requests are shown as escapes."""

from __future__ import annotations

import os

from rich.console import Console, ConsoleDimensions, HighlighterType, JustifyMethod, OverflowMethod
from rich.style import Style
from rich.text import Text

from rheostat.runtime.terminal import visible

WIDE = 160
"""Columns of a file or a pipe, in which nothing is cut to the width of a window; COLUMNS overrides it."""


class VisibleConsole(Console):
    """A console that shows control characters in messages and tables as escapes, and is wide off a terminal."""

    @property
    def size(self) -> ConsoleDimensions:
        found = super().size
        if self.is_terminal or self._width is not None or "COLUMNS" in os.environ:
            return found
        return ConsoleDimensions(WIDE, found.height)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self._width, self._height = new

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: HighlighterType | None = None,
    ) -> Text:
        return super().render_str(
            visible(text, keep="\n\t"),
            style=style,
            justify=justify,
            overflow=overflow,
            emoji=emoji,
            markup=markup,
            highlight=highlight,
            highlighter=highlighter,
        )


console = VisibleConsole(highlight=False, markup=False, emoji=False)
