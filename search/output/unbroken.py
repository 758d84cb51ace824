"""Figures that no line break tears apart: a number keeps its unit, its error and the sign of its limit."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

NO_BREAK = "\u00a0"
"""The space that pages and notebooks break no line at."""
_TIED = "\ue000"
"""A letter in the place of a space while a table is laid out: rich breaks lines at every space, also at :data:`NO_BREAK`."""
_UNITS = r"(?<=\d) (?=(?:%|[kMGT]?B|[kMGT]|ms|s|min|h)(?![\w-]))"
_ERRORS = r" (?=± \d)|(?<=±) (?=\d)"
_LIMITS = r"(?<=[<>]=) (?=[-+\d])"
_FIGURE = re.compile(f"{_UNITS}|{_ERRORS}|{_LIMITS}")


def unbroken(text: str, space: str = NO_BREAK) -> str:
    """Return a text with ``space`` inside its figures: ``98.44 ± 0.12 %``, ``1.09 MB``, ``40.8 M``, ``<= 0.25 ms``."""
    return _FIGURE.sub(space, text)


class FigureTable:
    """A table for a terminal in which figures are broken only where the screen is too narrow for them.

    Args:
        title: Words above the table.
        heads: A heading per column.
        left: Columns aligned to the left; the first is number 0.
    """

    def __init__(self, title: str, heads: Sequence[str], left: Container[int]) -> None:
        """Start a table without rows."""
        self._title, self._heads, self._left = title, heads, left
        self._rows: list[Sequence[str]] = []

    def add_row(self, cells: Sequence[str]) -> None:
        """Add a row, a cell per column."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the lines, with plain spaces, so that they can be searched for and copied."""
        free = options.max_width - 3 * len(self._heads) - 1
        tied, loose = (self._widths(space, free) for space in (_TIED, " "))
        table = self._table(" " if tied is None else _TIED, tied or loose or [None] * len(self._heads))
        for segment in console.render(table, options):
            yield Segment(segment.text.replace(_TIED, " "), segment.style, segment.control)

    def _widths(self, space: str, free: int) -> list[int] | None:
        """Return the width of every column in letters, no word broken; None where ``free`` letters are too few."""
        columns = [[unbroken(cell, space) for cell in column] for column in zip(self._heads, *self._rows, strict=True)]
        widths = [max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns]
        whole = [max(map(cell_len, column)) for column in columns]
        while sum(widths) < free and widths != whole:
            # The narrowest of the columns that lines are broken in is widened first.
            narrow = min((place for place in range(len(whole)) if widths[place] < whole[place]), key=widths.__getitem__)
            widths[narrow] += 1
        return widths if sum(widths) <= free else None

    def _table(self, space: str, widths: Sequence[int | None]) -> Table:
        table = Table(title=Text(self._title), title_justify="left")
        for place, (head, width) in enumerate(zip(self._heads, widths, strict=True)):
            justify: Literal["left", "right"] = "left" if place in self._left else "right"
            table.add_column(Text(unbroken(head, space)), overflow="fold", justify=justify, width=width)
        for cells in self._rows:
            table.add_row(*(Text(unbroken(cell, space)) for cell in cells))
        return table
