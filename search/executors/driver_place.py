"""The driver's working folder and import paths, and their use in another process. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def import_paths() -> list[str]:
    """Return the import paths of this process, the driver, for :func:`take_over`."""
    return [str(Path(path).absolute()) for path in sys.path]


def take_over(folder: str, paths: Sequence[str]) -> None:
    """Work in the driver's folder, where this machine has it, and find modules of the user's own as the driver does.

    Args:
        folder: The driver's working folder, in which relative paths are looked for.
        paths: The driver's import paths.
    """
    if Path(folder).is_dir():
        os.chdir(folder)
    sys.path.extend(path for path in paths if path not in sys.path)
