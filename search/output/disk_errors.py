"""A run folder that can't be written: what is wrong, and that the same command goes on once it is right again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """The run folder can't be written to."""


def is_disk_error(error: BaseException) -> bool:
    """Whether it says that a disk is full or can't be written."""
    return isinstance(error, OSError) and (error.errno in _FULL or error.errno in _CLOSED)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the system's word that ``folder`` can't be written into a message for a person.

    Raises:
        DiskError: The disk is full, or the folder can't be written.
    """
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
    """Whether ``file`` lies in ``folder``, or is a folder that has to be made for it."""
    if not isinstance(file, str):
        return file is None
    path, folder = Path(file).absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
