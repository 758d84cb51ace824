"""Progress: a bar with the remaining time on a terminal, plain lines elsewhere, and log.txt always."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from search.config.storage_url import hide_passwords

_LINE_EVERY_SECONDS = 10.0


class Bar:
    """One thing under way. Lines appear at the start, at the end and every ten seconds, however large the model is."""

    def __init__(
        self,
        log: Log,
        label: str,
        total: int | None,
        live: Progress | None,
        seconds_left: Callable[[], float] | None = None,
        at_most: bool = False,
    ) -> None:
        self._log = log
        self._label = label
        self._total = total
        self._seconds_left = seconds_left
        self._at_most = at_most
        self._live = live
        self._task: TaskID | None = live.add_task(label, total=total, note="") if live is not None else None
        self._start = self._line = time.monotonic()
        self._first: int | None = None
        self._done = 0
        self._note = ""

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` of the total are done; what was done before the first call doesn't count for the ETA."""
        self._first = done if self._first is None else self._first
        self._done, self._note = done, note or self._note
        text = f"{self._note}  {self.eta}".strip()
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, note=text)
        if time.monotonic() - self._line >= _LINE_EVERY_SECONDS:
            self._line = time.monotonic()
            self._log.write(f"{self._label}: {self._count} {text}", console=self._live is None)

    def finish(self) -> None:
        """Write the last line."""
        seconds = time.monotonic() - self._start
        fewer = self._total is not None and self._done < self._total
        done = f"{self._done} of at most {self._total}" if fewer else self._count
        self._log.write(f"{self._label}: {done} {self._note} ({duration(seconds)})", console=self._live is None)

    @property
    def eta(self) -> str:
        """The time that remains until all is done or the time is up, in words; empty while unknown."""
        rests = [max(self._seconds_left(), 0.0)] if self._seconds_left is not None else []
        gained = self._done - (self._first or 0)
        if gained and self._total is not None:
            rests.append((time.monotonic() - self._start) / gained * max(self._total - self._done, 0))
        return f"ETA {'at most ' if self._at_most else ''}{duration(min(rests))}" if rests else ""

    @property
    def _count(self) -> str:
        return f"{self._done}/{self._total}" if self._total is not None else str(self._done)


class Log:
    """Messages of a run to the person who started it, on the console and in log.txt.

    Args:
        path: Where lines are kept, or None.
        console: Where they are shown; None shows nothing.
    """

    def __init__(self, path: Path | None, console: Console | None) -> None:
        self._console = console
        self._file = path.open("ab", buffering=0) if path is not None else None
        self._depth = 0

    def write(self, text: str, console: bool = True) -> None:
        """Write one line to log.txt and, with ``console``, show it; passwords of URLs are hidden."""
        text = hide_passwords(text)
        if self._file is not None:
            self._file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n".encode())
        if console and self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

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
        terminal = self._console is not None and self._console.is_terminal and self._depth == 0
        self._depth += 1
        try:
            if not terminal:
                bar = Bar(self, label, total, None, seconds_left, at_most)
                yield bar
            else:
                note = TextColumn("{task.fields[note]}")
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note)
                with Progress(*columns, console=self._console, transient=True) as live:
                    bar = Bar(self, label, total, live, seconds_left, at_most)
                    yield bar
            bar.finish()
        finally:
            self._depth -= 1

    def close(self) -> None:
        """Close log.txt."""
        if self._file is not None:
            self._file.close()
            self._file = None

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
