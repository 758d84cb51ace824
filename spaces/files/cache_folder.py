"""Folder of what runs on this machine share and can make again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "SECATEURS_CACHE"


def cache_folder() -> Path:
    """Return the folder that the environment variable ``SECATEURS_CACHE`` names, else ``~/.cache/secateurs``.

    Raises:
        RuntimeError: The account has no home folder.
    """
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "secateurs").expanduser()
