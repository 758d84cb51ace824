"""Logger of a run: every record goes to log.txt, and on to a console and the program's own logging as far as levels let it.

A level set on the logger ``search`` counts for the console and the program's handlers, not for log.txt.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from search.config.storage_url import hide_passwords

PACKAGE = logging.getLogger("search")
"""Logger that a program sets the level of, and adds handlers to."""

_FORMAT = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S")


def shown_level() -> int:
    """Return the lowest level of lines on a console: that of the logger ``search``, INFO where none is set."""
    return PACKAGE.level or logging.INFO


class HiddenPasswords(logging.Filter):
    """Filter that passes every record, with the passwords of URLs in its text hidden."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, after the record's text has lost its passwords."""
        record.msg, record.args = hide_passwords(record.getMessage()), None
        return True


class FileHandler(logging.FileHandler):
    """Handler that appends lines with their time to log.txt, and raises what the disk raises.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(_FORMAT)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise the error of writing ``record``, which ends the run with a message: a full disk is full for the rest, too."""
        raise


class ConsoleHandler(logging.Handler):
    """Handler that shows the text of records as it is: rich's own wraps lines at the width of a console and pads them.

    Args:
        console: Place of the lines.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record of at least :func:`shown_level`."""
        if record.levelno >= shown_level():
            self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _ToProgram(logging.Handler):
    """Handler that hands records to the logger ``search`` as if they had been made there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a record that ``search`` is enabled for, where the program handles records at all."""
        if PACKAGE.isEnabledFor(record.levelno) and PACKAGE.hasHandlers():
            PACKAGE.handle(record)


def run_logger(path: Path | None, console: Console | None) -> logging.Logger:
    """Return a logger for one run, whose handlers are the caller's to close.

    Args:
        path: Path of log.txt, or None.
        console: Place of lines; None shows nothing.
    """
    # Not one of getLogger's: the level of `search` must not reach log.txt, and runs side by side keep their lines apart.
    logger = logging.Logger(PACKAGE.name, logging.DEBUG)
    logger.addFilter(HiddenPasswords())
    logger.addHandler(_ToProgram())
    if path is not None:
        logger.addHandler(FileHandler(path))
    if console is not None:
        logger.addHandler(ConsoleHandler(console))
    return logger
