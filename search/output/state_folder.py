"""The folder of this account's own notes: which storages its runs use, and tracebacks of errors outside of runs."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return ``$XDG_STATE_HOME/secateurs``, by default ``~/.local/state/secateurs``; it may not exist yet.

    Raises:
        OSError: This account has no home folder.
    """
    place = os.environ.get("XDG_STATE_HOME")
    if place and Path(place).is_absolute():
        return Path(place) / "secateurs"
    try:
        return Path.home() / ".local" / "state" / "secateurs"
    except RuntimeError as error:
        raise OSError(str(error)) from error
