"""Reading what somebody else may have written: regular files of bounded size, JSON of bounded depth and finite numbers."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spaces.errors import SecateursError

MAX_JSON_BYTES = 256 * 2**20
"""Largest JSON file that is read, in bytes (ours: a report of 100,000 trials takes 60 MiB)."""

MAX_DEPTH = 64
"""Deepest nesting of JSON that is read (ours: a report nests 9 levels, a transformation 6 and one per sequence)."""


class FileError(SecateursError):
    """A file of a run folder is not what it should be."""


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
    with os.fdopen(os.open(path, flags, dir_fd=folder), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileError(f"{path}: expected a regular file")
        yield file


def read_json(path: Path, limit: int = MAX_JSON_BYTES, follow: bool = True) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileError: It is too large, too deep or no JSON; the message names the file.
        OSError: It can't be opened.
    """
    with opened(path, follow=follow) as file:
        return parse_json(read_bounded(file, str(path), limit), str(path))


def read_bounded(file: BinaryIO, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return what is left of ``file``.

    Raises:
        FileError: That is more than ``limit`` bytes.
    """
    content = file.read(limit + 1)
    if len(content) > limit:
        raise FileError(f"{name}: expected at most {limit:,} bytes")
    return content


def parse_json(content: bytes, name: str) -> Any:
    """Return the data in ``content``, whose numbers are finite and whose texts can be written again.

    Raises:
        FileError: It is no such JSON; the message begins with ``name``.
    """
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise FileError(f"{name} is not JSON: {reason}") from None
    _check_nesting(data, name)
    return data


def mapping(data: Any, name: str) -> dict[str, Any]:
    """Return ``data``, a JSON object.

    Raises:
        FileError: It is something else.
    """
    if not isinstance(data, dict):
        raise FileError(f"{name}: expected a JSON object, got {shown(data)}")
    return data


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def place(name: str, keys: Sequence[str | int]) -> str:
    """Return the file's name and the way to a value in it: ``report.json: searches[0].stage``."""
    way = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
    return f"{name}: {way}" if way else name


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _check_nesting(data: Any, name: str) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise FileError(f"{name}: expected finite numbers, got one too large for a float")
            elif isinstance(value, str) and not value.isascii():
                _check_text(value, name)
        if not below:
            return
        level = below
    raise FileError(f"{name}: expected JSON of at most {MAX_DEPTH} levels")


def _check_text(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FileError(f"{name}: expected Unicode text, got half of a surrogate pair in {shown(text)}") from None
