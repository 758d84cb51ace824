"""JSON files of a run folder that a run can make again: read whole and valid, or told as lost."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from search.output.log_records import PACKAGE
from spaces.files.json_file import read_record, write_record
from spaces.files.reading import DamagedFileError, place, shown

T = TypeVar("T")
Tell = Callable[[str], None]
"""Function that takes a line about something lost."""


class RecordFile(Generic[T]):
    """A file of :func:`spaces.files.json_file.write_record`, with data of one type.

    Args:
        path: The file.
        kind: Type of the data, such as a ``TypedDict``, with ranges.
        loss: Consequence of a damaged file, for its message: ``time counts from 0``.
        tell: Takes a line about a damaged file; by default the program's logging.
    """

    def __init__(self, path: Path, kind: type[T], loss: str, tell: Tell = PACKAGE.warning) -> None:
        """Keep the place; nothing is read or written yet."""
        self.path = path
        self._kind, self._loss, self._tell = kind, loss, tell

    def read(self) -> T | None:
        """Return the data of the file; None where there is no file, or a damaged one, which is told.

        Raises:
            FileError: There is something else than a file.
        """
        try:
            return read_checked(self.path, self._kind)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            self._tell(f"{error}: {self._loss}")
            return None

    def write(self, data: Mapping[str, Any]) -> None:
        """Replace the file."""
        write_record(self.path, data)


def read_checked(path: Path, kind: type[T]) -> T:
    """Return the data of a file of :func:`spaces.files.json_file.write_record`, once it is of the type ``kind``.

    Raises:
        DamagedFileError: It is damaged, or of another type; the message begins with the path.
        FileError: It is no regular file.
        OSError: It can't be opened.
    """
    return checked(read_record(path), kind, str(path))


def checked(data: Any, kind: type[T], name: str) -> T:
    """Return ``data``, once it is of the type ``kind``: no text in place of a number, and numbers in their range.

    Raises:
        DamagedFileError: It is not; the message names the first field that is wrong, and begins with ``name``.
    """
    try:
        _adapter(cast(Hashable, kind)).validate_python(data, strict=True)
    except ValidationError as error:
        raise DamagedFileError(wrong_field(error, name)) from None
    # As it was read: the validated copy has floats where integers stood.
    return cast(T, data)


def wrong_field(error: ValidationError, name: str) -> str:
    """Return a line on the first field of a file that is wrong, and on how many are."""
    first, count = error.errors(include_url=False, include_context=False)[0], error.error_count()
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{place(name, first['loc'])}: {first['msg'].lower()}, got {shown(first['input'])}{more}"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
