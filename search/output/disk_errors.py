"""Turn errors of a full or read-only disk, or of used up memory and files, into messages with the cause and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.output.exhaustion import ExhaustedError, exhausted
from spaces.errors import SecateursError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
}
_CLOSED = {
    errno.EROFS: "it is read-only",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
}


class DiskError(SecateursError):
    """Run folder that can't be written to."""


def is_disk_error(error: BaseException) -> bool:
    """Return True for the system's error of a disk that is full or can't be written."""
    return isinstance(error, OSError) and (error.errno in _FULL or error.errno in _CLOSED)


@contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Raise a SecateursError in place of the system's error that it has no room, or not enough of something, for a run.

    Args:
        folder: The run folder.

    Raises:
        DiskError: The disk is full, or the folder can't be written.
        ExhaustedError: There is no memory left, or no more files or processes can be opened.
    """
    try:
        with _disk_errors(folder):
            yield
    except SecateursError:
        raise
    except Exception as error:
        if (lacking := exhausted(error)) is not None:
            raise ExhaustedError(
                f"cannot go on with {folder}: {lacking}. What is recorded is kept, and the same command goes on from there"
            ) from error
        raise


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            raise DiskError(
                f"cannot go on with {folder}: {_FULL[error.errno]}{file}. What is recorded is kept; make room, and the same "
                "command goes on from there"
            ) from error
        if error.errno in _CLOSED and _inside(folder, error.filename):
            raise DiskError(
                f"cannot write to {folder}: {_CLOSED[error.errno]}{file}. Make it writable, or choose another place with --runs"
            ) from error
        raise


def _inside(folder: Path, file: str | bytes | None) -> bool:
    """Return True where ``file`` lies in ``folder`` or is one of the parents of ``folder``."""
    if not isinstance(file, str):
        return file is None
    path, folder = Path(file).absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
