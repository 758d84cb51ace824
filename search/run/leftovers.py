"""Temporary files and folders that a killed run left in its folder."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

_FILE = re.compile(r"\..+\.[0-9a-f]{8}")
_FOLDER = re.compile(r"\.best\..+\.new")


def remove_leftovers(folder: Path) -> list[str]:
    """Remove files and folders that were being written when a run was killed, and return their paths inside ``folder``.

    Their names are those that :func:`spaces.files.replace_file` and :class:`~search.run.best.Best` give them; links are not
    followed. The run's lock is held.
    """
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        for name in [name for name in folders if _FOLDER.fullmatch(name)]:
            folders.remove(name)
            shutil.rmtree(Path(place) / name, ignore_errors=True)
            found.append(str((Path(place) / name).relative_to(folder)))
        for name in filter(_FILE.fullmatch, files):
            (Path(place) / name).unlink(missing_ok=True)
            found.append(str((Path(place) / name).relative_to(folder)))
    return found
