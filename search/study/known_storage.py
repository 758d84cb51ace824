"""Storage URLs that stand in a run folder: opened unasked only where this account made the folder on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from search.config.storage_url import StorageError, StorageUrl, hide_passwords
from search.output.state_folder import state_folder
from spaces.files.atomic import replace_file
from spaces.files.json_file import read_record
from spaces.files.reading import FileError


def remember(run_id: str, url: StorageUrl) -> None:
    """Note that a run of this account uses ``url``; what can't be noted is asked about later."""
    try:
        replace_file(_note(run_id, url), b"")
    except OSError:
        return


def require_consent(folder: Path, url: StorageUrl, ask: Callable[[str], bool] | None) -> None:
    """Raise if the storage named in ``folder`` may be somebody else's choice and nobody agrees to open it.

    Variables of the environment are not filled in before.

    Args:
        folder: The run folder.
        url: The URL in its configuration.
        ask: Shows a question and returns the answer; None where there is nobody to ask.

    Raises:
        StorageError: Nobody was asked, or the answer was no.
    """
    place = _place(folder, url)
    if place is None or _note(_run_id(folder), url).exists():
        return
    remedy = f"repeat the URL with --storage if you want to open it: {hide_passwords(url.text)}"
    question = f"{folder} was not made by this account on this machine, and names a storage: {place}. Open it?"
    if ask is None or not ask(question):
        raise StorageError(f"{folder} was not made by this account on this machine, and names a storage: {place}; {remedy}")


def _place(folder: Path, url: StorageUrl) -> str | None:
    """Return the host or the file that ``url`` leads to, in words; None for a file inside ``folder``."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url.text)
    except (ArgumentError, ValueError):
        return "an address that can't be read"
    if parts.get_backend_name() != "sqlite":
        return f"a database at {parts.host or 'this machine'}"
    path = Path(parts.database or "").absolute()
    inside = "$" not in url.text and not parts.query and path.resolve().is_relative_to(folder.resolve())
    return None if inside else f"the file {path}"


def _run_id(folder: Path) -> str:
    try:
        return str(read_record(folder / "environment.json").get("run_id"))
    except (OSError, FileError):
        return ""


def _note(run_id: str, url: StorageUrl) -> Path:
    return state_folder() / "storages" / hashlib.sha256(f"{run_id}\n{url.identity}".encode()).hexdigest()
