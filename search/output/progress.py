"""Progress: a bar with the remaining time on a terminal and in a notebook, plain lines elsewhere, and log.txt always."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from search.output.live_line import LiveLine, Moment, NotebookLine, TerminalLine, notebook_display
from search.output.log_records import run_logger, shown_level

_LINE_EVERY_SECONDS = 10.0


class Bar:
    """One thing under way. Lines appear at the start, at the end and every ten seconds, however large the model is."""

    def __init__(
        self,
        log: Log,
        label: str,
        total: int | None,
        live: LiveLine | None,
        seconds_left: Callable[[], float] | None = None,
        at_most: bool = False,
    ) -> None:
        self._log = log
        self._label = label
        self._total = total
        self._seconds_left = seconds_left
        self._at_most = at_most
        self._live = live
        self._start = self._line = time.monotonic()
        self._first: int | None = None
        self._done = 0
        self._note = ""
        self._show()

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` of the total are done; what was done before the first call doesn't count for the ETA."""
        self._first = done if self._first is None else self._first
        self._done, self._note = done, note or self._note
        text = f"{self._note}  {self.eta}".strip()
        self._show()
        if time.monotonic() - self._line >= _LINE_EVERY_SECONDS:
            self._line = time.monotonic()
            self._log.write(f"{self._label}: {self._count} {text}", self._level)

    def finish(self) -> None:
        """Write the last line."""
        seconds = time.monotonic() - self._start
        fewer = self._total is not None and self._done < self._total
        done = f"{self._done} of at most {self._total}" if fewer else self._count
        self._log.write(f"{self._label}: {done} {self._note} ({duration(seconds)})")

    def _show(self) -> None:
        if self._live is not None:
            self._live.show(Moment(self._label, self._done, self._total, self._count, self.eta, self._note))

    @property
    def eta(self) -> str:
        """The time that remains until all is done or the time is up, in words; empty while unknown."""
        rests = [max(self._seconds_left(), 0.0)] if self._seconds_left is not None else []
        gained = self._done - (self._first or 0)
        if gained and self._total is not None:
            rests.append((time.monotonic() - self._start) / gained * max(self._total - self._done, 0))
        return f"ETA {'at most ' if self._at_most else ''}{duration(min(rests))}" if rests else ""

    @property
    def _level(self) -> int:
        """Level of the bar's lines under way, which say nothing new beside a live one."""
        return logging.INFO if self._live is None else logging.DEBUG

    @property
    def _count(self) -> str:
        return f"{self._done}/{self._total}" if self._total is not None else str(self._done)


class Log:
    """Messages of a run to the person who started it: records of the standard library's logging.

    All go to log.txt; those from :func:`.shown_level` on to the console; and those that the logger ``search`` is enabled for to
    the handlers that a program has added to it or to the root logger.

    Args:
        path: Path of log.txt, or None.
        console: Place of lines and bars; None shows nothing.
    """

    def __init__(self, path: Path | None, console: Console | None) -> None:
        self._console = console
        self._logger = run_logger(path, console)
        self._depth = 0
        display = notebook_display(console)
        self._notebook = NotebookLine(display) if display is not None else None

    def write(self, text: str, level: int = logging.INFO) -> None:
        """Log one line; passwords of URLs are hidden.

        Args:
            text: The line.
            level: INFO; WARNING for what a person should look at; DEBUG for what only log.txt needs.
        """
        self._logger.log(level, "%s", text, stacklevel=2)

    @contextmanager
    def bar(
        self, label: str, total: int | None, seconds_left: Callable[[], float] | None = None, at_most: bool = False
    ) -> Iterator[Bar]:
        """Show the progress of something under way.

        Args:
            label: What it is.
            total: How many there are to do, None where unknown.
            seconds_left: Tells how much time there is left, where that is limited.
            at_most: Whether it may be over before ``total`` are done.
        """
        live = self._live() if self._depth == 0 and shown_level() <= logging.INFO else None
        self._depth += 1
        try:
            try:
                bar = Bar(self, label, total, live, seconds_left, at_most)
                yield bar
            finally:
                if live is not None:
                    live.clear()
            bar.finish()
        finally:
            self._depth -= 1

    def _live(self) -> LiveLine | None:
        """Return the place of a live line, None where there are plain lines only."""
        # A notebook's standard output may say that it is a terminal, and shows every frame of a bar one below the other.
        if self._notebook is not None or self._console is None or not self._console.is_terminal:
            return self._notebook
        return TerminalLine(self._console)

    def close(self) -> None:
        """Close log.txt, and let go of the console and of the program's handlers."""
        for handler in [*self._logger.handlers]:
            self._logger.removeHandler(handler)
            handler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def duration(seconds: float) -> str:
    """Return a length of time as a person reads it."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
