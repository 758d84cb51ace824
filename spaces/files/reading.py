"""Read what somebody else may have written: regular files of bounded size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spaces.errors import SecateursError

MAX_JSON_BYTES = 256 * 2**20
"""Largest JSON file that is read, in bytes (ours: a report of 100,000 trials takes 60 MiB)."""


class FileError(SecateursError):
    """A file of a run folder is not what it should be."""


class DamagedFileError(FileError):
    """The content of a file is not what was written: cut, overwritten, or never a file of its kind."""


@contextmanager
def opened(path: str | Path, folder: int | None = None, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a regular file to read; a pipe or a device in its place is refused instead of waited for.

    Args:
        path: The file.
        folder: Descriptor of the folder that a relative ``path`` lies in; None for the working folder.
        follow: Whether a symbolic link is followed.

    Raises:
        FileError: It is no regular file.
        OSError: It can't be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    handle = os.open(path, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileError(f"{path}: expected a regular file")
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bounded(file: BinaryIO, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return what is left of ``file``.

    Raises:
        DamagedFileError: That is more than ``limit`` bytes.
    """
    content = file.read(limit + 1)
    if len(content) > limit:
        raise DamagedFileError(f"{name}: expected at most {limit:,} bytes")
    return content


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def place(name: str, keys: Sequence[str | int]) -> str:
    """Return the file's name and the way to a value in it: ``report.json: searches[0].stage``."""
    way = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
    return f"{name}: {way}" if way else name
