"""Studies in a database: Optuna's tables, a trial in one transaction, and patience with a server that goes away."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.storages import RDBStorage
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from search.config.storage_url import StorageError, StorageUrl
from search.run.run_storage import RunStorage
from search.study.patience import patiently, reason_of
from search.study.trial_tables import STUDIES, TrialTables

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

OWNER = "secateurs:owner"
_Answer = TypeVar("_Answer")

# A connection whose server vanished without a word is given up after about half a minute instead of never.
_LIBPQ = {
    "client_encoding": "utf8",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_CONNECT: dict[str, dict[str, Any]] = {
    "postgresql": _LIBPQ,
    "postgresql+psycopg": _LIBPQ,
    "postgresql+psycopg2": _LIBPQ,
    "sqlite": {"timeout": 30.0},
}


class Database(RDBStorage, RunStorage):
    """Optuna's database storage for the one driver of a run.

    A finished trial is written in one transaction of a few statements (Optuna needs three for every parameter: 27 times as
    long in SQLite, 11 times in PostgreSQL, by benchmarks.storage), and only where its number is the next one: written again
    after a lost connection, it is found to be there. An operation that the server does not answer is tried again for some
    minutes. All else is Optuna's.

    Args:
        url: Where the database is.
        owner: The run that writes; studies of another run of the same name are refused.
        folder: That run's folder, for messages.
        say: Told when the storage stops answering, and when it is back.

    Raises:
        StorageError: The database can't be opened.
    """

    def __init__(self, url: StorageUrl, owner: str, folder: str, say: Callable[[str], None]) -> None:
        self.name, self._where = str(url), url
        self._me = {"run": owner, "folder": folder, "host": socket.gethostname()}
        self._say = say
        open_database(url, super().__init__)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _write_ahead)
            self.engine.dispose()
        self._tables = self.patiently(lambda: TrialTables(self.engine))

    def close(self) -> None:
        """Close all connections."""
        self.remove_session()
        self.engine.dispose()

    def claim(self, study: Study) -> None:
        """Make a study this run's own.

        Raises:
            StorageError: It is another run's.
        """

        def write() -> dict[str, Any]:
            owner = self._owner_of(study.study_name)
            if owner is None:
                try:
                    with self.engine.begin() as connection:
                        self._tables.insert_study_attribute(connection, study.study_name, OWNER, self._me)
                except IntegrityError:
                    owner = self._owner_of(study.study_name)
            return owner or self._me

        self._refuse(self.patiently(write), study.study_name)

    def refuse_others(self, prefix: str) -> None:
        """Raise if a study whose name begins with ``prefix`` is another run's.

        Raises:
            StorageError: One is; the message names the run's folder.
        """
        for study in self.patiently(self.get_all_studies):
            if study.study_name.startswith(prefix):
                self._refuse(study.user_attrs.get(OWNER, self._me), study.study_name)

    def record(self, study: Study, trial: FrozenTrial) -> None:
        """Write a finished trial, unless this very trial is there already.

        Args:
            study: The study, which this run has claimed.
            trial: The trial, with its ``number`` and its candidate's ``fingerprint`` among its user attributes.

        Raises:
            StorageError: The database does not answer, or somebody else has written the study.
        """
        self.patiently(lambda: self._write(study.study_name, trial))

    def patiently(self, operation: Callable[[], _Answer]) -> _Answer:
        """Return the result of ``operation``; while the database does not answer, try again for five minutes.

        Raises:
            StorageError: It can't be waited for, or did not come back in time.
        """
        return patiently(operation, self._where, self._say)

    def _refuse(self, owner: dict[str, Any], study: str) -> None:
        if owner["run"] != self._me["run"]:
            raise StorageError(
                f"study {study!r} in {self.name} is another run's, in the folder {owner['folder']} of {owner['host']}: give "
                "this run another name, or go on with that one"
            )

    def _owner_of(self, study: str) -> dict[str, Any] | None:
        with self.engine.connect() as connection:
            found: dict[str, Any] | None = self._tables.study_attribute(connection, study, OWNER)
        return found

    def _write(self, name: str, trial: FrozenTrial) -> None:
        number = trial.user_attrs["number"]
        with self.engine.begin() as connection:
            study, there = self._tables.lock_and_count(connection, name)
            if there > number:
                if self._tables.fingerprint(connection, study, number) != trial.user_attrs["fingerprint"]:
                    raise StorageError(
                        f"storage {self.name}: trial {number} was recorded by somebody else; only the one driver of a run may "
                        "write its studies"
                    )
            elif there < number:
                raise StorageError(
                    f"storage {self.name} has {there} trials of a study of which {number} were recorded: was it put back to "
                    "an older state? The same command goes on from what is there"
                )
            else:
                self._tables.insert_trial(connection, study, trial)


def _write_ahead(connection: Any, record: Any) -> None:
    """Let a dashboard read while a trial is written, and don't force the disk at each: a power cut may cost the last ones."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def probe(url: StorageUrl) -> str:
    """Return ``url`` in words, once the database has answered; nothing is made in it.

    Raises:
        StorageError: It can't be opened.
    """

    def answer(text: str, kwargs: dict[str, Any]) -> None:
        engine = create_engine(text, **kwargs)
        try:
            # Connecting would make the file.
            if engine.dialect.name != "sqlite" or Path(engine.url.database or "").exists():
                inspect(engine).get_table_names()
        finally:
            engine.dispose()

    open_database(url, answer)
    return str(url)


def look_into(url: StorageUrl) -> RDBStorage:
    """Open the database to look at what a run records; nothing is made in it.

    Raises:
        StorageError: It can't be opened, or there are no studies in it.
    """
    storage = open_database(url, _existing)
    if storage is None:
        raise StorageError(f"storage {url} has no studies: expected the database of a run that has begun")
    return storage


def _existing(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage | None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return None
    engine = create_engine(url, **engine_kwargs)
    try:
        if not inspect(engine).has_table(STUDIES):
            return None
    finally:
        engine.dispose()
    return RDBStorage(url, engine_kwargs, skip_compatibility_check=True, skip_table_creation=True)


def open_database(url: StorageUrl, connect: Callable[..., _Answer], **options: Any) -> _Answer:
    """Return ``connect(text of the URL, engine_kwargs=..., **options)``, with errors that a person can use.

    Raises:
        StorageError: The URL is wrong, its driver is not installed, or the database does not let us in.
    """
    filled = url.filled()
    try:
        parsed = make_url(filled)
        known = _CONNECT.get(parsed.drivername, {})
        arguments = {key: value for key, value in known.items() if key not in parsed.query}
        return connect(filled, {"connect_args": arguments, "pool_pre_ping": parsed.get_backend_name() != "sqlite"}, **options)
    except (ImportError, ArgumentError) as error:
        driver = filled.partition("://")[0]
        raise StorageError(
            f"storage: {driver} is no database this Python can reach ({reason_of(error, url)}); for PostgreSQL install "
            "secateurs[postgresql] and write postgresql+psycopg://..."
        ) from None
    except SQLAlchemyError as error:
        raise StorageError(f"storage: cannot open {url}: {reason_of(error, url)}") from None
