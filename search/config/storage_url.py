"""Storage URLs: filled in from the environment, and never shown with a password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from spaces.errors import SecateursError

HIDDEN = "***"
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# The password reaches to the last @ of the word: people forget to write %40 in it.
_PASSWORD = re.compile(r"(?P<before>\b[a-z][a-z0-9+.]*://[^:/@\s'\"]*:)(?P<password>[^\s'\"]*)(?=@)", re.IGNORECASE)
_OPTION = re.compile(r"(?P<before>[?&][a-z_]*(?:passw|pwd|secret|token)[a-z_]*=)(?P<password>[^&\s'\"]+)", re.IGNORECASE)


class StorageError(SecateursError):
    """Storage of a run's studies that cannot be reached or used."""


def hide_passwords(text: str) -> str:
    """Return ``text`` with the password of every URL in it replaced by ``***``; a ``${NAME}`` is none, and stays."""
    for pattern in (_PASSWORD, _OPTION):
        text = pattern.sub(_hidden, text)
    return text


def _hidden(match: re.Match[str]) -> str:
    password = match["password"]
    return match["before"] + (password if _PLACEHOLDER.fullmatch(password) else HIDDEN)


@dataclass(frozen=True)
class StorageUrl:
    """An Optuna storage URL as a configuration gives it.

    Its text is shown by no ``repr``, and ``str`` hides the password.

    Attributes:
        text: The URL, with ``${NAME}`` where the environment is to be filled in.
    """

    text: str = field(repr=False)

    def __str__(self) -> str:
        """Return the URL for messages and files: variables filled in, the password hidden or left a ``${NAME}``."""
        marks: dict[str, str] = {}

        def keep(match: re.Match[str]) -> str:
            name = _PLACEHOLDER.fullmatch(match["password"])
            return match["before"] + (f"\0{name[1]}\0" if name else match["password"])

        kept = _OPTION.sub(keep, _PASSWORD.sub(keep, self.text))
        filled = _PLACEHOLDER.sub(lambda match: os.environ.get(match[1], match[0]), kept)
        marked = re.sub(r"\0(\w+)\0", lambda match: marks.setdefault(match[1], f"${{{match[1]}}}"), filled)
        return hide_passwords(marked)

    def filled(self) -> str:
        """Return the URL to connect to.

        Raises:
            StorageError: A variable is not set, the password is one that was hidden, or this is no storage URL.
        """
        missing = sorted({name for name in _PLACEHOLDER.findall(self.text) if name not in os.environ})
        if missing:
            raise StorageError(
                f"storage: ${{{missing[0]}}} is not set in the environment; export {missing[0]}=... and try again"
            )
        url = _PLACEHOLDER.sub(lambda match: os.environ[match[1]], self.text)
        scheme, found, rest = url.partition("://")
        if not found or not re.fullmatch(r"[a-z][a-z0-9]*(\+[a-z0-9_]+)?", scheme):
            raise StorageError(
                "storage: expected a database URL such as sqlite:///study.db or "
                f"postgresql+psycopg://user:${{PGPASSWORD}}@host/database, got {self}; without it, a journal is kept "
                "in the run folder"
            )
        if f":{HIDDEN}@" in url or f"={HIDDEN}" in url:
            raise StorageError(
                f"storage: the password of {self} was hidden when the configuration was saved; write it as ${{NAME}} and set "
                "that variable"
            )
        if scheme.partition("+")[0] == "sqlite":
            _require_file(rest, self)
        return url

    @property
    def identity(self) -> str:
        """URL without any password; must stay the same for a run to go on."""
        shown = str(self)
        for pattern in (_PASSWORD, _OPTION):
            shown = pattern.sub(lambda match: match["before"] + HIDDEN, shown)
        return shown


def _require_file(rest: str, url: StorageUrl) -> None:
    path = rest.removeprefix("/").partition("?")[0]
    if path in ("", ":memory:"):
        raise StorageError(f"storage: {url} keeps nothing once the run ends; expected a file, such as sqlite:///study.db")
    if not Path(path).parent.is_dir():
        raise StorageError(f"storage: there is no folder {Path(path).parent} for {url}")
