"""Code that the configuration in a run folder names: known where this account began the run with it on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.output.state_folder import state_folder
from spaces.files.atomic import replace_file
from spaces.files.json_file import read_record
from spaces.files.reading import FileError

_IMPORT_PATH = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")


def remember_code(run_id: str, config: Mapping[str, Any]) -> None:
    """Note that this account has begun a run with the code that its configuration names; what can't be noted is unknown later.

    Args:
        run_id: The run's random identity.
        config: The configuration as plain data, as it is written into the run folder.
    """
    try:
        replace_file(_note(run_id, config), b"")
    except OSError:
        return


def is_known(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return True if this account has begun the run in ``folder``, with the code that ``config`` names."""
    try:
        run_id = read_record(folder / "environment.json").get("run_id")
        return isinstance(run_id, str) and _note(run_id, config).exists()
    except (OSError, FileError):
        return False


def _note(run_id: str, config: Mapping[str, Any]) -> Path:
    named = json.dumps([run_id, *sorted(set(_import_paths(config)))])
    return state_folder() / "code" / hashlib.sha256(named.encode()).hexdigest()


def _import_paths(value: Any) -> Iterator[str]:
    """Yield every text that could be an import path, keys included."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _import_paths(key)
            yield from _import_paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _import_paths(inner)
    elif isinstance(value, str) and _IMPORT_PATH.fullmatch(value):
        yield value
