"""Write files and folders atomically: a reader finds the old or the new content, complete, at any moment."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from pathlib import Path
from typing import Any

from spaces.files.atomic import replace_file, sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_text(path: Path, text: str) -> None:
    """Replace the text file ``path``."""
    replace_file(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Replace the JSON file ``path``; numbers that JSON doesn't know (NaN, infinity) are an error."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def replace_folder(new: Path, folder: Path) -> None:
    """Replace ``folder`` by the complete folder ``new``; on Linux there is no moment without one.

    Where the file system can't exchange two folders, the old one is set aside as ``.<name>.old`` for the moment between
    two renames; :func:`recover_folder` undoes that after a kill.
    """
    for path in sorted(new.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(new)
    if not folder.exists():
        new.replace(folder)
    elif _exchange(new, folder):
        shutil.rmtree(new)
    else:
        aside = _aside(folder)
        shutil.rmtree(aside, ignore_errors=True)
        folder.replace(aside)
        new.replace(folder)
        shutil.rmtree(aside)
    sync_folder(folder.parent)


def recover_folder(folder: Path) -> None:
    """Finish a replacement that a kill cut off."""
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        aside.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; False where the system can't."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    result: int = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return result == 0
