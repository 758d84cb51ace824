"""Text files with a digest in their first line, a comment of YAML."""

from __future__ import annotations

from pathlib import Path

from spaces.files.atomic import replace_file
from spaces.files.digest import BLANK, fill, matches, stands_in
from spaces.files.json_file import read_content
from spaces.files.reading import DamagedFileError

_HEAD = b"# digest: "


def write_commented(path: Path, text: str) -> None:
    """Replace the text file ``path``, with a digest over ``text`` in a comment above it."""
    replace_file(path, fill(_HEAD + BLANK.encode() + b"\n" + text.encode(), len(_HEAD)))


def read_commented(path: Path, follow: bool = True) -> str:
    """Return the text of a file of :func:`write_commented`; one without a digest is read as it is.

    Raises:
        DamagedFileError: The content is not that of its digest, or no text; the message begins with the path.
        FileError: It is no regular file.
        OSError: It can't be opened.
    """
    content = read_content(path, follow)
    if stands_in(content, _HEAD) and not matches(content, len(_HEAD)):
        raise DamagedFileError(f"{path} is damaged: its content does not match the digest in it")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is no text, or damaged: {error}") from None
