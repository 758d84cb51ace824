"""One line on what is under way, drawn anew in its place: at the foot of a terminal, or in the cell of a notebook."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

_BAR, _WIDE_BAR, _WIDE = 10, 40, 120
_SHORTEST_NAME = 12
_REDRAWN_EVERY_SECONDS = 0.5

Display = Callable[..., Any]
"""IPython's ``display``."""


@dataclass(frozen=True)
class Moment:
    """State of the thing under way.

    Attributes:
        name: What it is.
        done: Number of those that are done.
        total: Number of all, None where unknown.
        count: Both in words: ``3/20``.
        eta: Remaining time in words; empty while unknown.
        note: What there is to say of the last one.
    """

    name: str
    done: int
    total: int | None
    count: str
    eta: str = ""
    note: str = ""


class LiveLine(ABC):
    """Place of the line, opened for one thing after the other."""

    @abstractmethod
    def show(self, moment: Moment) -> None:
        """Draw the line."""

    @abstractmethod
    def clear(self) -> None:
        """Take the line away."""


class TerminalLine(LiveLine):
    """A line with name, bar, count, remaining time and note at the foot of a terminal.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        name, count, eta, note = (
            TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Column(no_wrap=True))
            for field in ("name", "count", "eta", "note")
        )
        bar = BarColumn(_bar_width(console.width))
        self._progress = Progress(name, bar, count, eta, note, console=console, transient=True)
        self._task = self._progress.add_task("", name="", count="", eta="", note="")
        self._progress.start()

    def show(self, moment: Moment) -> None:
        """Draw the line, cut so that count and remaining time are never off the screen: first the note."""
        width = self._progress.console.width
        free = width - _bar_width(width) - len(moment.count) - len(moment.eta) - 4
        name = _cut(moment.name, max(free, _SHORTEST_NAME))
        note = _cut(moment.note, free - len(name))
        self._progress.update(
            self._task,
            completed=moment.done,
            total=moment.total,
            name=name,
            count=moment.count,
            eta=moment.eta,
            note=note,
        )

    def clear(self) -> None:
        """Take the line away; the last frame leaves no trace."""
        self._progress.stop()


class NotebookLine(LiveLine):
    """The same line as an output of a notebook's cell that is replaced, at most twice a second.

    Args:
        display: IPython's ``display``.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._handle: Any = None
        self._drawn = 0.0

    def show(self, moment: Moment) -> None:
        """Draw the line, unless it was drawn a moment ago."""
        now = time.monotonic()
        if self._handle is not None and now - self._drawn < _REDRAWN_EVERY_SECONDS:
            return
        self._drawn = now
        words = " ".join(text for text in (moment.count, moment.eta, moment.note) if text)
        extent = "" if moment.total is None else f' value="{moment.done}" max="{moment.total}"'
        name = escape(moment.name)
        page = f'{name} <progress{extent} aria-label="{name}"></progress> {escape(words)}'
        self._put({"text/plain": f"{moment.name}: {words}", "text/html": page})

    def clear(self) -> None:
        """Leave the output empty; the next thing under way is shown in the same place."""
        self._drawn = 0.0
        self._put({"text/plain": "", "text/html": ""})

    def _put(self, content: dict[str, str]) -> None:
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def notebook_display(console: Console | None) -> Display | None:
    """Return IPython's ``display`` where ``console`` writes into the cell of a notebook, else None."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None or console is None or console.file is not sys.stdout else ipython.get_ipython()
    if shell is None or "IPKernelApp" not in shell.config:
        return None
    found: Display = ipython.display.display
    return found


def _bar_width(width: int) -> int:
    """Return the columns of a bar on a terminal of ``width`` columns."""
    return _WIDE_BAR if width >= _WIDE else _BAR


def _cut(text: str, width: int) -> str:
    """Return ``text``, its end replaced by a mark where it is longer than ``width`` columns."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…" if width > 0 else ""
