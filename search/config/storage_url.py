"""Storage URLs: filled in from the environment, and never shown with a password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from spaces.errors import SecateursError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIDDEN = "***"
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9_]+)?")
_SECRET = re.compile(r"pass|pwd|pw$|secret|token|key|cred|auth", re.IGNORECASE)
_PASSWORD_VARIABLE = re.compile(r"(?<=:)\$\{([A-Za-z_][A-Za-z0-9_]*)\}(?=@)")
# In free text the password of a web address reaches to the last @ of the word, that of a database to the last of the line.
_WEB_LOGIN = re.compile(r"(?P<before>\bhttps?://)(?P<login>[^\s'\"]*)(?=@)", re.IGNORECASE)
_LOGIN = re.compile(r"(?P<before>\b(?!https?:)[a-z][a-z0-9+.-]*://)(?P<login>.*)(?=@)", re.IGNORECASE)
_OPTION = re.compile(r"(?P<before>[?&](?P<key>[a-z_]+)=)(?P<value>[^&\s'\"]+)", re.IGNORECASE)


class StorageError(SecateursError):
    """Storage of a run's studies that cannot be reached or used."""


def hide_passwords(text: str) -> str:
    """Return ``text`` with the password of every URL in it replaced by ``***``; a ``${NAME}`` is none, and stays."""
    for pattern in (_WEB_LOGIN, _LOGIN):
        text = pattern.sub(lambda match: match["before"] + _without_password(match["login"]), text)
    return _OPTION.sub(lambda match: match["before"] + _hidden_option(match["key"], match["value"]), text)


def _without_password(login: str) -> str:
    user, colon, password = login.partition(":")
    if re.search(r"[/@\s'\"]", user):
        return HIDDEN
    return user + colon + (_label(password) if colon else "")


def _hidden_option(key: str, value: str) -> str:
    return _label(value) if _SECRET.search(key) else value


def _label(secret: str) -> str:
    return secret if _PLACEHOLDER.fullmatch(secret) else HIDDEN


def _parse(text: str) -> URL | None:
    """Return the parts of a URL; None where it can't be told where its password ends."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return None
    file = url.get_backend_name() == "sqlite" and url.password is None
    return url if file or "@" not in f"{url.host}{url.database}" else None


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
        text = self._filled()
        scheme, found, rest = text.partition("://")
        if not found:
            return text if re.fullmatch(r"[\w.\-/\\~]+", text) else HIDDEN
        if not _SCHEME.fullmatch(scheme):
            return f"{HIDDEN}://{HIDDEN}"
        url = _parse(text)
        if url is None:
            _, at, rest = rest.rpartition("@")
            return f"{scheme}://{HIDDEN if at else ''}{at}" + re.sub(r"(?<==)[^&]+", HIDDEN, rest)
        # SQLAlchemy would write the labels in percent signs.
        marks: dict[str, str] = {}

        def mark(label: str) -> str:
            return marks.setdefault(label, f"hidden{len(marks)}label")

        password = _PASSWORD_VARIABLE.search(self.text.partition("?")[0])
        if url.password is not None:
            url = url.set(password=mark(password[0] if password else HIDDEN))
        written = {match["key"]: match["value"] for match in _OPTION.finditer(self.text)}
        secret = {key: mark(_label(written.get(key, ""))) for key in url.query if _SECRET.search(key)}
        shown = url.update_query_dict(secret).render_as_string(hide_password=False)
        for label, placed in marks.items():
            shown = shown.replace(placed, label)
        return shown

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
        text = self._filled()
        scheme, found, _ = text.partition("://")
        if not found or not _SCHEME.fullmatch(scheme):
            raise StorageError(
                "storage: expected a database URL such as sqlite:///study.db or "
                f"postgresql+psycopg://user:${{PGPASSWORD}}@host/database, got {self}; without it, a journal is kept "
                "in the run folder"
            )
        if f":{HIDDEN}@" in text or f"={HIDDEN}" in text:
            raise StorageError(
                f"storage: the password of {self} was hidden when the configuration was saved; write it as ${{NAME}} and set "
                "that variable"
            )
        url = _parse(text)
        if url is None:
            raise StorageError(
                f"storage: can't tell user, password, host and port of {self} apart; expected "
                f"{scheme}://user:password@host:port/database, with %40 for an @ and %2F for a / in user or password"
            )
        if url.get_backend_name() == "sqlite":
            _require_file(url.database, self)
        return text

    @property
    def identity(self) -> str:
        """URL without any password; must stay the same for a run to go on."""
        shown = _PASSWORD_VARIABLE.sub(HIDDEN, str(self))
        return _OPTION.sub(lambda match: match["before"] + (HIDDEN if _SECRET.search(match["key"]) else match["value"]), shown)

    def hide(self, message: str) -> str:
        """Return a driver's message without this URL's secrets, however the driver has taken the URL apart."""
        text = self._filled()
        url = _parse(text)
        secrets = {text: str(self)}
        if url is not None:
            values = [str(url.password or ""), *(str(value) for key, value in url.query.items() if _SECRET.search(key))]
        else:
            values = [text.rpartition("@")[0].rpartition("://")[2], *re.findall(r"=([^&\s]*)", text)]
        forms = {form for value in values for form in (value, unquote(value))}
        words = {word for form in forms for word in re.split(r"[\W_]+", form)}
        secrets.update({secret: HIDDEN for secret in forms | words if len(secret) > 2})
        for secret in sorted(secrets, key=len, reverse=True):
            message = message.replace(secret, secrets[secret])
        return hide_passwords(message)

    def _filled(self) -> str:
        """Return the text with all variables that are set; an @ in one that is the whole password becomes %40."""
        text = _PASSWORD_VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]).replace("@", "%40"), self.text)
        return _PLACEHOLDER.sub(lambda match: os.environ.get(match[1], match[0]), text)


def _require_file(path: str | None, url: StorageUrl) -> None:
    if path in (None, "", ":memory:"):
        raise StorageError(f"storage: {url} keeps nothing once the run ends; expected a file, such as sqlite:///study.db")
    if not Path(str(path)).parent.is_dir():
        raise StorageError(f"storage: there is no folder {Path(str(path)).parent} for {url}")
