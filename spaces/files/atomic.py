"""Replace files atomically: a reader finds the old or the new content, complete, at any moment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from spaces.files.reading import FileError


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file ``path`` by ``content``, on disk when the call returns; a missing folder is made.

    The file's permissions are those of any new file, 0666 less the umask. A failed write leaves the old file and nothing else.

    Raises:
        FileError: There is a folder of that name.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder; expected a file, or nothing: remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the renames inside ``folder`` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
