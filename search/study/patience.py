"""Retry operations on a database that does not answer, with growing pauses, for five minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from search.config.storage_url import StorageError, StorageUrl
from search.output.progress import duration

PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_NEVER = (
    "authentication failed",
    "disk i/o error",
    "disk is full",
    "does not exist",
    "malformed",
    "no such table",
    "permission denied for",
    "read-only",
    "readonly",
)

Answer = TypeVar("Answer")


def patiently(operation: Callable[[], Answer], url: StorageUrl, say: Callable[[str], None]) -> Answer:
    """Return the result of ``operation``; while the database does not answer, try again for five minutes.

    Args:
        operation: Reads or writes; may have been done in part when it fails, and must bear being done again.
        url: The storage.
        say: Told once when the storage stops answering, and once when it is back.

    Raises:
        StorageError: It can't be waited for, or did not come back in time.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    start, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
    told, name = False, str(url)
    while True:
        try:
            answer = operation()
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = reason_of(error, url)
            waited = time.monotonic() - start
            if not _passes(error):
                raise StorageError(f"storage {name}: {reason}. What was recorded is kept; the same command goes on") from None
            if waited >= PATIENCE_SECONDS:
                raise StorageError(
                    f"storage {name} has not answered for {duration(waited)}: {reason}. What was recorded is kept; once the "
                    "storage answers, the same command goes on"
                ) from None
        else:
            if told:
                say(f"storage {name} answers again, after {duration(time.monotonic() - start)}")
            return answer
        if not told:
            say(f"storage {name} does not answer: {reason}; waiting up to {duration(PATIENCE_SECONDS)} for it")
            told = True
        time.sleep(pause)
        pause = min(2.0 * pause, _LONGEST_PAUSE_SECONDS)


def reason_of(error: BaseException, url: StorageUrl) -> str:
    """Return the first line of the database's own message, without passwords and statements."""
    from sqlalchemy.exc import DBAPIError

    cause = error
    while cause.__cause__ is not None and not isinstance(cause, DBAPIError):
        cause = cause.__cause__
    said = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return url.hide(lines[0] if lines else type(said).__name__)


def _passes(error: BaseException) -> bool:
    """Return True for an error that may pass: a lost connection, a server that restarts, a lock held by another client."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DBAPIError):
        cause = cause.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    transient = isinstance(cause, OperationalError | InterfaceError) or cause.connection_invalidated
    return transient and not any(word in str(cause.orig).lower() for word in _NEVER)
