"""Ends of a command by an error: an exit code and a message for a person; an unforeseen error's traceback goes to a log."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from search.config.storage_url import hide_passwords
from search.output.exhaustion import exhausted, nearly_exhausted
from search.output.state_folder import state_folder
from spaces.errors import SecateursError, error_line

MISTAKE, NOT_MET, DEFECT = 2, 3, 70
"""Exit codes of an error that a person can mend, of a missed target where that is to be one, and of any other error
(``EX_SOFTWARE`` in BSD's sysexits.h)."""

LOG = "log.txt"


class UnexpectedError(Exception):
    """An error of a run that nobody foresaw; its cause is the error itself.

    Args:
        folder: The run folder, whose log gets the traceback.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def ending(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message of a command that ``error`` ended.

    An error that nobody foresaw is told in one line; its traceback is added to the run's ``log.txt`` where there is one, else
    to ``log.txt`` in :func:`~search.output.state_folder.state_folder`.
    """
    try:
        raise error
    except SecateursError as mistake:
        return MISTAKE, hide_passwords(str(mistake))
    except UnexpectedError as run:
        return _defect(run.__cause__ or run, run.folder)
    except Exception as defect:
        return _defect(defect, None)


def _defect(error: BaseException, folder: Path | None) -> tuple[int, str]:
    if (lacking := exhausted(error)) is not None:
        return MISTAKE, hide_passwords(f"{lacking} ({error_line(error)})")
    log = _kept(error, folder)
    where = f"the traceback is in {log}" if log is not None else "no log could be written"
    parts = [f"unexpected error: {error_line(error)}", nearly_exhausted(), where]
    return DEFECT, hide_passwords("; ".join(filter(None, parts)))


def _kept(error: BaseException, folder: Path | None) -> Path | None:
    """Return the log that the traceback was added to; None where none can be written."""
    text = hide_passwords("".join(traceback.format_exception(error)))
    try:
        log = folder / LOG if folder is not None and (folder / LOG).exists() else state_folder() / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}")
    except OSError:
        return None
    return log
