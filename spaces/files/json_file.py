"""JSON files: bounded depth, finite numbers, and for those of a run folder a digest in the first field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaces.files.atomic import replace_file
from spaces.files.digest import BLANK, fill, matches, stands_in
from spaces.files.reading import MAX_JSON_BYTES, DamagedFileError, opened, read_bounded, shown

MAX_DEPTH = 64
"""Deepest nesting of JSON that is read (ours: a report nests 9 levels, a transformation 6 and one per sequence)."""

DIGEST = "digest"
_HEAD = b'{\n "digest": "'


def pack_record(data: Mapping[str, Any]) -> bytes:
    """Return the JSON file of ``data``, with a digest over all other bytes in its first field.

    Raises:
        ValueError: A number is not finite.
    """
    blank = json.dumps({DIGEST: BLANK, **_without_digest(data)}, indent=1, allow_nan=False) + "\n"
    return fill(blank.encode(), len(_HEAD))


def unpack_record(content: bytes, name: str) -> dict[str, Any]:
    """Return the data of a JSON file, without its digest.

    A file that another program has written anew, in another layout, is read like one from before there were digests.

    Raises:
        DamagedFileError: The content is not that of its digest, or no JSON object; the message begins with ``name``.
    """
    if is_digested(content) and not matches(content, len(_HEAD)):
        raise DamagedFileError(f"{name} is damaged: its content does not match the digest in it")
    return _without_digest(mapping(parse_json(content, name), name))


def is_digested(content: bytes) -> bool:
    """Return True for a JSON file with a digest, False for one that an earlier version or another program has written."""
    return stands_in(content, _HEAD)


def undigested(path: Path) -> str:
    """Return the warning of a folder whose file has no digest."""
    return (
        f"{path} has no digest: it is from an earlier version, or another program has written it since; damage in its folder "
        "may go unnoticed"
    )


def write_record(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the JSON file ``path``, with a digest in it, and return the file's content, the digest included.

    Raises:
        ValueError: A number is not finite.
    """
    content = pack_record(data)
    replace_file(path, content)
    return {DIGEST: content[len(_HEAD) : len(_HEAD) + len(BLANK)].decode(), **_without_digest(data)}


def read_record(path: Path, follow: bool = True) -> dict[str, Any]:
    """Return the data of a file of :func:`write_record`.

    Args:
        path: The file.
        follow: Whether a symbolic link is followed.

    Raises:
        DamagedFileError: It is damaged; the message names the file.
        FileError: It is no regular file.
        OSError: It can't be opened.
    """
    return unpack_record(read_content(path, follow), str(path))


def read_content(path: Path, follow: bool = True) -> bytes:
    """Return the bytes of a JSON file.

    Raises:
        FileError: It is too large, or no regular file.
        OSError: It can't be opened.
    """
    with opened(path, follow=follow) as file:
        return read_bounded(file, str(path), MAX_JSON_BYTES)


def read_json(path: Path) -> Any:
    """Return the content of a person's own JSON file.

    Raises:
        FileError: It is too large, too deep or no JSON; the message names the file.
        OSError: It can't be opened.
    """
    return parse_json(read_content(path), str(path))


def parse_json(content: bytes, name: str) -> Any:
    """Return the data in ``content``, whose numbers are finite and whose texts can be written again.

    Raises:
        DamagedFileError: It is no such JSON; the message begins with ``name``.
    """
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DamagedFileError(f"{name} is not JSON: {reason}") from None
    _check_nesting(data, name)
    return data


def mapping(data: Any, name: str) -> dict[str, Any]:
    """Return ``data``, a JSON object.

    Raises:
        DamagedFileError: It is something else.
    """
    if not isinstance(data, dict):
        raise DamagedFileError(f"{name}: expected a JSON object, got {shown(data)}")
    return data


def _without_digest(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != DIGEST}


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
                raise DamagedFileError(f"{name}: expected finite numbers, got one too large for a float")
            elif isinstance(value, str) and not value.isascii():
                _check_text(value, name)
        if not below:
            return
        level = below
    raise DamagedFileError(f"{name}: expected JSON of at most {MAX_DEPTH} levels")


def _check_text(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DamagedFileError(f"{name}: expected Unicode text, got half of a surrogate pair in {shown(text)}") from None
